//! Stop strings, found across the boundaries of tokens.

use crate::error::{Error, Result};

/// Passes text on until a stop string is complete, and never shows part of one.
///
/// The end of the text is held back as long as it may be the beginning of a stop string. The text is
/// looked at character by character, so how it was cut into tokens makes no difference: the string
/// that is complete first ends it, the longest if several are.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    /// A matcher that has seen nothing.
    ///
    /// # Errors
    ///
    /// An empty stop string, which would stop everything.
    pub fn new(stops: &[String]) -> Result<Self> {
        if stops.iter().any(String::is_empty) {
            let rule = "must be a text of at least one character, is empty".into();
            return Err(Error::Setting { key: "stop", rule });
        }
        let mut stops = stops.to_vec();
        stops.sort_by_key(|stop| std::cmp::Reverse(stop.len()));
        Ok(Self { stops, held: String::new() })
    }

    /// Takes more text. Returns what may be shown, and the stop string if one is complete; what follows it
    /// is dropped.
    pub fn push(&mut self, text: &str) -> (String, Option<&str>) {
        if self.stops.is_empty() {
            return (text.into(), None);
        }
        for c in text.chars() {
            self.held.push(c);
            if let Some(stop) = self.stops.iter().find(|stop| self.held.ends_with(*stop)) {
                self.held.truncate(self.held.len() - stop.len());
                return (std::mem::take(&mut self.held), Some(stop));
            }
        }
        let begins = |at: usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..]));
        let mut starts = self.held.char_indices().map(|(at, _)| at);
        let open = starts.find(|&at| begins(at)).unwrap_or(self.held.len());
        let rest = self.held.split_off(open);
        (std::mem::replace(&mut self.held, rest), None)
    }

    /// What was held back, now that nothing follows.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Text shown, and the stop, for text cut into pieces of so many characters.
    fn run(stops: &[&str], text: &str, cut: usize) -> (String, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.into()).collect();
        let mut matcher = StopMatcher::new(&stops).unwrap();
        let mut all = String::new();
        for piece in text.chars().collect::<Vec<_>>().chunks(cut) {
            let (shown, stop) = matcher.push(&piece.iter().collect::<String>());
            all += &shown;
            if let Some(stop) = stop {
                return (all, Some(stop.into()));
            }
        }
        (all + &matcher.finish(), None)
    }

    #[test]
    fn cuts_make_no_difference() {
        for (stops, text, shown, stop) in [
            (&["<end>"][..], "a story<end> and more", "a story", Some("<end>")),
            (&["<end>"], "a <e nd> b <end", "a <e nd> b <end", None),
            (&["aab"], "aaab!", "a", Some("aab")),
            (&["abcd", "bc"], "xabcd", "xa", Some("bc")),
            (&["bc", "abc"], "xabcd", "x", Some("abc")),
            (&["é–"], "caféé–x", "café", Some("é–")),
            (&[], "all of it", "all of it", None),
            (&["a"], "", "", None),
        ] {
            for cut in 1..=text.len().max(1) {
                assert_eq!(run(stops, text, cut), (shown.into(), stop.map(Into::into)), "{cut}");
            }
        }
    }

    #[test]
    fn a_beginning_is_held_back_and_no_more() {
        let mut matcher = StopMatcher::new(&["\nUser:".into()]).unwrap();
        assert_eq!(matcher.push("Hello\nUs").0, "Hello");
        assert_eq!(matcher.push("ual").0, "\nUsual");
        assert_eq!(matcher.push("\nUser: hi"), (String::new(), Some("\nUser:")));
    }

    #[test]
    fn an_empty_stop_is_refused() {
        assert!(StopMatcher::new(&[String::new()]).is_err());
    }
}
