//! Blank lines inside a document made one line break.

/// Trims a text and makes one line break of every run of white space that holds several, from the
/// first of them to the last: what `re.sub(r"\n\s*\n+", "\n", text.strip())` does in Python.
pub fn collapse(text: &str) -> String {
    let mut rest = text.trim();
    let mut collapsed = String::with_capacity(rest.len());
    while let Some(first) = rest.find('\n') {
        let run =
            rest[first..].find(|c: char| !c.is_whitespace()).map_or(rest.len(), |end| first + end);
        let last = rest[first..run].rfind('\n').map_or(first, |last| first + last);
        collapsed.push_str(&rest[..=first]);
        rest = &rest[last + 1..];
    }
    collapsed.push_str(rest);
    collapsed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collapse_is_the_reference_expression() {
        let cases = [
            ("a\n\nb", "a\nb"),
            ("a\n \t\n\n\n b", "a\n b"),
            ("a\nb", "a\nb"),
            ("a\n  b", "a\n  b"),
            ("a  \n\nb\n\n", "a  \nb"),
            ("\n\n a \n\n", "a"),
            ("", ""),
            ("a\n\n\n\nb\n\nc", "a\nb\nc"),
        ];
        for (text, expected) in cases {
            assert_eq!(collapse(text), expected, "{text:?}");
        }
    }
}
