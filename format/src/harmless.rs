//! Text from a file, fit to be shown: on a terminal some control characters are commands, and in a page none is allowed.

/// The control characters that a text of several lines may keep.
pub const LAYOUT: [char; 2] = ['\n', '\t'];

/// Spells control characters out, but for those in `kept`.
pub fn escaped(text: &str, kept: &[char]) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmless(c, kept) {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
    }
    shown
}

/// Puts U+FFFD in the place of every control character, but for those in `kept`.
pub fn replaced(text: &str, kept: &[char]) -> String {
    text.chars().map(|c| if is_harmless(c, kept) { c } else { '\u{fffd}' }).collect()
}

fn is_harmless(c: char, kept: &[char]) -> bool {
    !c.is_control() || kept.contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out_or_replaced_unless_kept() {
        let text = "a\u{1b}[2J\n\u{9b}é";
        assert_eq!(escaped(text, &LAYOUT), "a\\u{1b}[2J\n\\u{9b}é");
        assert_eq!(escaped(text, &[]), "a\\u{1b}[2J\\n\\u{9b}é");
        assert_eq!(replaced(text, &LAYOUT), "a\u{fffd}[2J\n\u{fffd}é");
        assert_eq!(replaced(text, &[]), "a\u{fffd}[2J\u{fffd}\u{fffd}é");
    }
}
