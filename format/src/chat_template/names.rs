//! The names of control tokens in a conversation: those that the template writes, and those that people type.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use aho_corasick::AhoCorasick;

use crate::error::{Error, Result};
use crate::tokenizer::SpecialToken;

/// A conversation as a template writes it, and the control tokens in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    text: String,
    /// Where the template wrote names of control tokens, from the left, and their places among the special tokens.
    controls: Vec<(Range<usize>, usize)>,
}

impl Text {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Where control tokens stand, from the left, and which.
    pub(super) fn controls(&self) -> &[(Range<usize>, usize)] {
        &self.controls
    }
}

/// The control tokens of a vocabulary.
#[derive(Debug)]
pub(super) struct Names {
    /// By id.
    tokens: Vec<SpecialToken>,
    finder: AhoCorasick,
}

impl Names {
    pub(super) fn new(mut tokens: Vec<SpecialToken>) -> Result<Self> {
        tokens.retain(|token| !token.text.is_empty());
        tokens.sort_by_key(|token| token.id);
        let finder = AhoCorasick::new(tokens.iter().map(|token| &token.text))
            .map_err(|error| Error::tokenizer("control tokens", &error.to_string()))?;
        Ok(Self { tokens, finder })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tokens.iter().any(|token| token.text == name)
    }

    pub(super) fn has_id(&self, id: u32) -> bool {
        self.tokens.binary_search_by_key(&id, |token| token.id).is_ok()
    }

    pub(super) fn token(&self, place: usize) -> &SpecialToken {
        &self.tokens[place]
    }

    /// What someone wrote, with the sentinel in every name of a control token. Parts of names at either end, which a template
    /// may complete, are broken too; only what it completes on both sides is not.
    pub(super) fn broken(&self, content: &str, sentinel: char) -> String {
        let mut cuts: BTreeSet<usize> = BTreeSet::new();
        for (place, _) in self.all(content) {
            cuts.insert(place.start + first(&content[place]));
        }
        // Templates trim.
        let (start, end) = (content.len() - content.trim_start().len(), content.trim_end().len());
        for SpecialToken { text, .. } in &self.tokens {
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if content[..end].ends_with(left) {
                    cuts.insert(end - left.len() + first(left));
                }
                if content[start..].starts_with(right) {
                    let last = right.chars().next_back().map_or(0, char::len_utf8);
                    cuts.insert(start + right.len() - last);
                }
            }
        }
        let mut broken = String::with_capacity(content.len());
        let mut from = 0;
        for cut in cuts {
            broken += &content[from..cut];
            broken.push(sentinel);
            from = cut;
        }
        broken + &content[from..]
    }

    /// Tells the template's control tokens, whose names are whole, and takes the sentinels out.
    pub(super) fn read(&self, written: &str, sentinel: char) -> Text {
        let mut found: Vec<_> = self.all(written).collect();
        // A name of one character cannot be broken: the sentinel is behind it.
        found.retain(|(place, _)| {
            let typed = place.len() == first(&written[place.clone()])
                && written[place.end..].starts_with(sentinel);
            !typed
        });
        // The longest of those that begin together.
        found.sort_by_key(|(place, _)| (place.start, Reverse(place.end)));
        let (mut text, mut controls, mut from) = (String::new(), Vec::new(), 0);
        for (place, token) in found {
            if place.start < from {
                continue;
            }
            text += &written[from..place.start].replace(sentinel, "");
            controls.push((text.len()..text.len() + place.len(), token));
            text += &written[place.clone()];
            from = place.end;
        }
        text += &written[from..].replace(sentinel, "");
        Text { text, controls }
    }

    /// Every place of every name, also of those that overlap.
    fn all<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (Range<usize>, usize)> + 'a {
        let found = self.finder.find_overlapping_iter(text);
        found.map(|found| (found.range(), found.pattern().as_usize()))
    }
}

/// The bytes of the first character.
fn first(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

/// The first of the characters that mean nothing in text.
pub(super) const SENTINELS: char = '\u{f0000}';

/// A character from [`SENTINELS`] on that none of these texts has.
pub(super) fn sentinel<'a>(texts: impl Iterator<Item = &'a str>) -> Option<char> {
    let taken: HashSet<char> = texts.flat_map(str::chars).filter(|c| *c >= SENTINELS).collect();
    (SENTINELS..=char::MAX).rev().find(|c| !taken.contains(c))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// What is typed between what a template writes, and the ids of the control tokens that are then found.
    fn found(names: &[&str], before: &str, typed: &str, after: &str) -> Vec<u32> {
        let tokens = (0..).zip(names).map(|(id, name)| SpecialToken {
            id,
            text: (*name).to_owned(),
            takes_space: [false; 2],
        });
        let names = Names::new(tokens.collect()).unwrap();
        let sentinel = sentinel([typed].into_iter()).unwrap();
        let written = format!("{before}{}{after}", names.broken(typed, sentinel));
        let text = names.read(&written, sentinel);
        assert_eq!(text.as_str(), format!("{before}{typed}{after}"));
        text.controls().iter().map(|(_, token)| names.token(*token).id).collect()
    }

    #[test]
    fn only_what_a_template_writes_whole_is_a_control_token() {
        let names = ["<s>", "</s>", "<s>>", "aXa", "é", ""];
        for typed in ["<s>", "x</s>y<s>>", "aXaXa", "é", "<s></s>é", "<", "<s", "/s>", ">", "aX"]
        {
            assert!(found(&names, "", typed, "").is_empty(), "{typed}");
            assert_eq!(found(&names, "<s>", &format!("{typed} z"), "</s>é"), [0, 1, 4], "{typed}");
        }
        // What one begins and the other ends.
        for (before, typed, after) in
            [("<", "s>", ""), ("", "</", "s>"), ("a", "Xa", ""), ("", " </s \n", ">")]
        {
            assert!(found(&names[..2], before, typed, after).is_empty(), "{before}{typed}{after}");
        }
        // The longest of those that begin together, the first of those that overlap.
        assert_eq!(found(&names, "<s>>aXaXa", "", ""), [2, 3]);
        // Characters that could be the sentinel.
        assert_eq!(found(&names, "<s>", "\u{10ffff}</s>\u{10fffe}", ""), [0]);
    }
}
