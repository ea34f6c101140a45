//! The precompiled table of normalization that SentencePiece models and their offspring carry.
//!
//! ```text
//! 4 bytes    length T of the trie, u32, little-endian
//! T bytes    a double-array trie (Darts): u32 units; its keys are texts, its values places in the rest
//! the rest   the texts that replace them, each ended by a zero
//! ```
//!
//! Its readers take the trie at its word: a cycle makes each search as long as the text, a key that ends inside a
//! character makes them cut one, and one text of megabytes replaces every letter. So the whole table is walked here.

/// The largest table that is walked. Published ones have 0.25 to 1 MB.
const MOST_BYTES: usize = 4 << 20;

/// The longest text that may replace another; the longest in Unicode's own tables has 33 bytes.
const MOST_TEXT_BYTES: usize = 64;

/// Checks a table, and returns how many times as long it can make a text.
///
/// # Errors
///
/// The rule that it breaks and the value found.
pub(crate) fn check(table: &[u8]) -> Result<usize, String> {
    let rule = |holds: bool, rule: String| if holds { Ok(()) } else { Err(rule) };
    let size = table.len();
    rule(
        size <= MOST_BYTES,
        format!("the charsmap must have at most {MOST_BYTES} bytes, has {size}"),
    )?;
    let Some((length, rest)) = table.split_first_chunk() else {
        return Err(format!("the charsmap must have a length of 4 bytes, has {size}"));
    };
    let length = u32::from_le_bytes(*length) as usize;
    let Some((trie, texts)) = rest.split_at_checked(length) else {
        return Err(format!("the charsmap's trie must fit {} bytes, says {length}", rest.len()));
    };
    let (units, partial) = trie.as_chunks();
    rule(
        !units.is_empty() && partial.is_empty(),
        format!("the charsmap's trie must be whole units of 4 bytes, has {length} bytes"),
    )?;
    let units: Vec<u32> = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    let texts =
        std::str::from_utf8(texts).map_err(|error| format!("the charsmap's texts: {error}"))?;
    rule(texts.ends_with('\0'), "the charsmap's texts must end with a zero".to_owned())?;
    let longest = texts.split('\0').map(str::len).max().unwrap_or(0);
    rule(
        longest <= MOST_TEXT_BYTES,
        format!("a text of the charsmap must have at most {MOST_TEXT_BYTES} bytes, has {longest}"),
    )?;
    Walk { units: &units, texts, colours: vec![Colour::New; 4 * units.len()] }.check()?;
    Ok(longest.max(1))
}

/// What a walk knows of a place in the trie.
#[derive(Clone, Copy, PartialEq)]
enum Colour {
    New,
    /// On the path from the root to here.
    Open,
    /// Everything below it is in order.
    Done,
}

struct Walk<'a> {
    units: &'a [u32],
    texts: &'a str,
    /// For each place and each number of bytes (0 to 3) that the character there still needs.
    colours: Vec<Colour>,
}

/// A place on the path, and the next byte to try from it.
struct Step {
    place: usize,
    pending: usize,
    byte: u8,
}

impl Walk<'_> {
    /// Walks every path of whole characters, depth first. Shared ends are legal, so this is a graph, not a tree.
    fn check(mut self) -> Result<(), String> {
        let root = offset(self.units[0]);
        let mut path = vec![self.enter(root, 0)?];
        while let Some(step) = path.last_mut() {
            let (place, pending, byte) = (step.place, step.pending, step.byte);
            if byte == 0xff {
                self.colours[4 * place + pending] = Colour::Done;
                path.pop();
                continue;
            }
            step.byte += 1;
            let Some(pending) = after(pending, byte) else { continue };
            let child = place ^ usize::from(byte);
            let unit = *self.unit(child)?;
            if label(unit) != u32::from(byte) {
                continue;
            }
            let child = child ^ offset(unit);
            if has_leaf(unit) {
                self.check_value(child, pending)?;
            }
            match self.colours.get(4 * child + pending) {
                Some(Colour::Open) => {
                    return Err(format!("the charsmap's trie turns back at unit {child}"));
                }
                Some(Colour::Done) => {}
                _ => path.push(self.enter(child, pending)?),
            }
        }
        Ok(())
    }

    fn enter(&mut self, place: usize, pending: usize) -> Result<Step, String> {
        self.unit(place)?;
        self.colours[4 * place + pending] = Colour::Open;
        // A zero byte ends a key; it is none.
        Ok(Step { place, pending, byte: 1 })
    }

    fn check_value(&self, place: usize, pending: usize) -> Result<(), String> {
        if pending > 0 {
            return Err(format!("a key of the charsmap ends inside a character, at unit {place}"));
        }
        let value = (self.unit(place)? & 0x7fff_ffff) as usize;
        if value < self.texts.len() && self.texts.is_char_boundary(value) {
            return Ok(());
        }
        Err(format!(
            "unit {place} of the charsmap must name one of {} bytes, is {value}",
            self.texts.len()
        ))
    }

    fn unit(&self, place: usize) -> Result<&u32, String> {
        let outside =
            || format!("the charsmap's trie leads to unit {place} of {}", self.units.len());
        self.units.get(place).ok_or_else(outside)
    }
}

/// How many bytes a character still needs after a byte, if the byte may stand there in UTF-8.
fn after(pending: usize, byte: u8) -> Option<usize> {
    match (pending, byte) {
        (0, ..=0x7f) => Some(0),
        (0, 0xc2..=0xdf) => Some(1),
        (0, 0xe0..=0xef) => Some(2),
        (0, 0xf0..=0xf4) => Some(3),
        (1.., 0x80..=0xbf) => Some(pending - 1),
        _ => None,
    }
}

fn has_leaf(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

fn label(unit: u32) -> u32 {
    unit & (1 << 31 | 0xff)
}

/// What a place is combined with to reach those of its children.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// A trie of 256 units with one key of one byte, and its text.
    fn table(change: impl Fn(&mut [u32; 256])) -> Vec<u8> {
        let mut units = [0u32; 256];
        units[0] = 1 << 10;
        units[1 ^ 65] = 65 | 1 << 8 | (64 ^ 200) << 10;
        units[200] = 1 << 31;
        change(&mut units);
        let units = units.iter().flat_map(|unit| unit.to_le_bytes());
        [&1024u32.to_le_bytes()[..], &units.collect::<Vec<_>>(), b"aa\0"].concat()
    }

    fn refused(table: &[u8], rule: &str) {
        let error = check(table).unwrap_err();
        assert!(error.contains(rule), "{error}");
    }

    #[test]
    fn a_small_table_passes_with_its_growth() {
        assert_eq!(check(&table(|_| {})), Ok(2));
    }

    #[test]
    fn a_table_that_breaks_a_rule_is_refused() {
        let good = table(|_| {});
        refused(&[1, 2], "a length of 4 bytes, has 2");
        refused(&u32::MAX.to_le_bytes(), "must fit 0 bytes, says 4294967295");
        refused(&[0; 5], "must be whole units of 4 bytes, has 0");
        refused(&[3, 0, 0, 0, 0, 0, 0, 0], "must be whole units of 4 bytes, has 3");
        refused(&good[..good.len() - 1], "must end with a zero");
        refused(&[&good[..], b"\xff\0"].concat(), "the charsmap's texts: invalid utf-8");
        refused(&[&good[..], &[b'x'; 65], b"\0"].concat(), "at most 64 bytes, has 65");
        refused(&vec![0; MOST_BYTES + 1], "at most 4194304 bytes, has 4194305");
    }

    #[test]
    fn a_trie_that_misleads_its_readers_is_refused() {
        refused(&table(|units| units[0] = 300 << 10), "leads to unit 300 of 256");
        refused(
            &table(|units| units[200] = 1 << 31 | 9),
            "unit 200 of the charsmap must name one of 3 bytes, is 9",
        );
        // `A` leads back to the root's children, so that `AAAA…` matches for ever.
        refused(&table(|units| units[64] = 65 | (64 ^ 1) << 10), "turns back at unit 1");
        // The first byte of `é`, without its second.
        refused(
            &table(|units| units[1 ^ 0xc3] = 0xc3 | 1 << 8 | (1 ^ 0xc3 ^ 200) << 10),
            "ends inside a character, at unit 200",
        );
    }

    #[test]
    fn the_table_of_a_published_model_passes() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/tok_spm_unigram/plain.model");
        let model = std::fs::read(path).unwrap();
        let start = 4 + model.windows(8).position(|bytes| bytes == b"nmt_nfkc").unwrap() + 4;
        // The name of the table, then field 2: a tag, a length of three bytes, the table.
        assert_eq!(model[start], 2 << 3 | 2);
        let length =
            model[start + 1..start + 4].iter().rev().fold(0, |n, b| n << 7 | usize::from(b & 0x7f));
        assert_eq!(check(&model[start + 4..][..length]), Ok(33));
    }
}
