//! A text that knows which of its bytes come from outside the template.

use std::ops::Range;

/// Text, and the ranges of its bytes that were given to the template: what people and models wrote.
///
/// What a template makes of given text is given too, in doubt all of it: text of the template that counts as given loses a
/// control token, while given text that counted as the template's could forge one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    text: String,
    /// In order, not empty, not touching.
    given: Vec<Range<usize>>,
}

impl Text {
    /// Text of the template, or of whoever calls it.
    pub fn written(text: impl Into<String>) -> Self {
        Self { text: text.into(), given: Vec::new() }
    }

    /// Text from outside.
    pub fn given(text: impl Into<String>) -> Self {
        Self::written(text).given_if(true)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its bytes that were given: ranges in order, none empty.
    pub fn given_ranges(&self) -> &[Range<usize>] {
        &self.given
    }

    /// Whether any of these bytes was given.
    pub fn is_given(&self, range: Range<usize>) -> bool {
        let next = self.given.partition_point(|given| given.end <= range.start);
        self.given.get(next).is_some_and(|given| given.start < range.end)
    }

    /// Whether any byte was given.
    pub(super) fn has_given(&self) -> bool {
        !self.given.is_empty()
    }

    /// The same text, all of it given if so.
    pub(super) fn given_if(self, given: bool) -> Self {
        let whole = 0..self.text.len();
        let ranges = if given && !whole.is_empty() { vec![whole] } else { Vec::new() };
        Self { given: ranges, ..self }
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Adds text at the end.
    pub(super) fn push(&mut self, other: &Self) {
        self.push_part(other, 0..other.len());
    }

    /// Adds part of a text at the end.
    pub(super) fn push_part(&mut self, other: &Self, part: Range<usize>) {
        let at = self.text.len();
        self.text.push_str(&other.text[part.clone()]);
        let first = other.given.partition_point(|given| given.end <= part.start);
        for given in &other.given[first..] {
            if given.start >= part.end {
                break;
            }
            let start = at + given.start.max(part.start) - part.start;
            let end = at + given.end.min(part.end) - part.start;
            match self.given.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => self.given.push(start..end),
            }
        }
    }

    /// A part, which must begin and end between characters.
    pub(super) fn part(&self, part: Range<usize>) -> Self {
        let mut text = Self::default();
        text.push_part(self, part);
        text
    }

    /// The part that another view of this text, got by trimming or splitting it, covers.
    pub(super) fn part_of(&self, view: &str) -> Self {
        let start = view.as_ptr() as usize - self.text.as_ptr() as usize;
        self.part(start..start + view.len())
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "ranges are compared")]
mod tests {
    use super::*;

    #[test]
    fn parts_and_sums_keep_what_was_given() {
        let mut text = Text::written("<a>");
        text.push(&Text::given("user"));
        text.push(&Text::written("</a>"));
        assert_eq!(text.as_str(), "<a>user</a>");
        assert_eq!(text.given_ranges(), [3..7]);
        assert_eq!(text.part(5..9).given_ranges(), [0..2]);
        assert!(text.part(7..9).given_ranges().is_empty());
        assert!(!text.is_given(0..3) && text.is_given(2..4) && !text.is_given(7..11));
        // What touches is one range.
        let mut joined = text.part(3..5);
        joined.push_part(&text, 5..7);
        assert_eq!(joined, Text::given("user"));
        assert_eq!(
            text.part_of(text.as_str()[2..].trim_end_matches("</a>")).given_ranges(),
            [1..5]
        );
        assert!(Text::given("").given_ranges().is_empty());
    }
}
