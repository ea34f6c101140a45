//! Windows of tokens for validation, the same each time.

use tern_format::tokenizer::Tokenizer;

use crate::batches::{check_length, document_starts};
use crate::config::Windows;
use crate::error::Result;
use crate::token_file::TokenFile;

/// Validation windows: of each source from the first token on, in order, without overlap.
///
/// Sources give windows in proportion to their weights, at least one each, so that the loss is that of the mixture:
/// as many as `valid_tokens` allows, or as the source has that runs out first.
#[derive(Clone, Debug)]
pub struct ValidationSet {
    sources: Vec<TokenFile>,
    seq_len: usize,
    /// Source and start of each window.
    windows: Vec<(usize, usize)>,
}

impl ValidationSet {
    /// As many whole windows of one source as predict at most `valid_tokens` tokens, or as the file has.
    ///
    /// # Errors
    ///
    /// As [`crate::batches::Batches::new`].
    pub fn new(
        tokens: TokenFile,
        seq_len: usize,
        windows: Windows,
        valid_tokens: Option<usize>,
    ) -> Result<Self> {
        Self::mixture(vec![(tokens, 1.0)], seq_len, windows, valid_tokens)
    }

    /// The windows of several sources and their weights.
    ///
    /// # Errors
    ///
    /// As [`Self::new`], for any source.
    pub fn mixture(
        weighted: Vec<(TokenFile, f64)>,
        seq_len: usize,
        windows: Windows,
        valid_tokens: Option<usize>,
    ) -> Result<Self> {
        let sum: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        let mut total =
            valid_tokens.map_or(f64::INFINITY, |tokens| (tokens / seq_len.max(1)) as f64);
        let mut available = Vec::new();
        for (tokens, weight) in &weighted {
            let starts = starts(tokens, seq_len, windows)?;
            total = total.min(starts.len() as f64 / (weight / sum));
            available.push(starts);
        }
        let mut windows = Vec::new();
        for (source, (starts, (_, weight))) in available.iter().zip(&weighted).enumerate() {
            // A hair more, lest a product just short of a whole number loses a window.
            let count = (total * (weight / sum) * (1.0 + 1e-12)) as usize;
            let taken = starts.iter().take(count.max(1));
            windows.extend(taken.map(|start| (source, *start)));
        }
        let sources = weighted.into_iter().map(|(tokens, _)| tokens).collect();
        Ok(Self { sources, seq_len, windows })
    }

    /// The number of windows, at least one.
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// The number of tokens that are predicted.
    pub fn targets(&self) -> usize {
        self.windows() * self.seq_len
    }

    /// Some of the windows, from number `first` on; fewer than `micro_batch` at the end, none
    /// beyond it.
    ///
    /// # Shapes
    ///
    /// - returns `[windows, seq_len + 1]`
    pub fn batch(&self, first: usize, micro_batch: usize) -> Vec<u32> {
        let windows = self.windows.iter().skip(first).take(micro_batch);
        let ids = |(source, start): &(usize, usize)| {
            self.sources[*source].ids(*start..start + self.seq_len + 1)
        };
        windows.flat_map(ids).collect()
    }

    /// The bytes of text that the predicted tokens stand for: the denominator of bits per byte.
    ///
    /// Each document is decoded by itself, because a tokenizer may treat the start of a text
    /// specially; delimiters stand for no bytes, though they are predicted too.
    ///
    /// # Errors
    ///
    /// A tokenizer of another vocabulary.
    pub fn text_bytes(&self, tokenizer: &Tokenizer) -> Result<usize> {
        let mut bytes = 0;
        let mut document = Vec::new();
        // Where the next window of the same text would start.
        let mut end = (0, 0);
        for &(source, start) in &self.windows {
            let header = self.sources[source].header();
            let mut gap = (source, start) != end;
            end = (source, start + self.seq_len);
            for id in self.sources[source].ids(start + 1..start + 1 + self.seq_len) {
                let delimits = Some(id) == header.bos || Some(id) == header.eos;
                // A window that does not go on where the one before it ended opens another text.
                if std::mem::take(&mut gap) || delimits {
                    bytes += tokenizer.decode(&document)?.len();
                    document.clear();
                }
                if !delimits {
                    document.push(id);
                }
            }
        }
        Ok(bytes + tokenizer.decode(&document)?.len())
    }
}

/// Where windows start that follow each other without overlap.
fn starts(tokens: &TokenFile, seq_len: usize, windows: Windows) -> Result<Vec<usize>> {
    check_length(tokens, seq_len)?;
    Ok(match windows {
        // The last target of a window is the first input of the next.
        Windows::Anywhere => (0..tokens.len() - seq_len).step_by(seq_len).collect(),
        Windows::Documents => {
            let mut end = 0;
            let mut free = |start: &usize| {
                let free = *start >= end;
                end = if free { start + seq_len } else { end };
                free
            };
            let starts = document_starts(tokens, seq_len)?;
            starts.into_iter().filter(|start| free(start)).collect()
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::token_file::tests::{file, words};

    #[test]
    fn validation_windows_cover_in_order() {
        let (_directory, tokens) = file(41, &(3..41).collect::<Vec<_>>());
        let stream: Vec<u32> = tokens.ids(0..40).collect();
        let all = ValidationSet::new(tokens.clone(), 13, Windows::Anywhere, None).unwrap();
        assert_eq!((all.windows(), all.targets()), (3, 39));
        let expected = [&stream[0..14], &stream[13..27], &stream[26..40]].concat();
        assert_eq!(all.batch(0, 9), expected);
        assert_eq!([all.batch(0, 2), all.batch(2, 2), all.batch(4, 2)].concat(), expected);
        let capped = ValidationSet::new(tokens.clone(), 13, Windows::Anywhere, Some(30)).unwrap();
        assert_eq!((capped.windows(), capped.targets()), (2, 26));
        // "w3 w4" to "w40" without the first id, BOS, and the last, EOS.
        let text: Vec<String> = (3..41).map(|id| format!("w{id}")).collect();
        assert_eq!(all.text_bytes(&words(41)).unwrap(), text.join(" ").len());
    }

    #[test]
    fn sources_give_windows_by_weight_until_one_runs_out() {
        let (_one, long) = file(5000, &(3..1003).collect::<Vec<_>>());
        let (_two, short) = file(5000, &(3000..3102).collect::<Vec<_>>());
        let counts = |weights: [f64; 2], valid_tokens| {
            let weighted = vec![(long.clone(), weights[0]), (short.clone(), weights[1])];
            let set =
                ValidationSet::mixture(weighted, 10, Windows::Anywhere, valid_tokens).unwrap();
            let windows = set.batch(0, set.windows());
            let second = windows.chunks(11).filter(|window| window[5] >= 3000).count();
            (set.windows() - second, second)
        };
        // There are 100 and 10 windows.
        assert_eq!(counts([1.0, 1.0], None), (10, 10));
        assert_eq!(counts([3.0, 1.0], None), (30, 10));
        assert_eq!(counts([3.0, 1.0], Some(120)), (9, 3));
        assert_eq!(counts([1000.0, 1.0], Some(100)), (9, 1));
        assert_eq!(counts([10.0, 1.0], None), (100, 10));
    }

    #[test]
    fn the_bytes_of_a_mixture_are_those_of_its_sources() {
        let (_one, first) = file(41, &(3..41).collect::<Vec<_>>());
        let (_two, second) = file(41, &(5..40).collect::<Vec<_>>());
        let bytes = |weighted| {
            let set = ValidationSet::mixture(weighted, 6, Windows::Anywhere, Some(36)).unwrap();
            (set.windows(), set.text_bytes(&words(41)).unwrap())
        };
        let alone = |tokens: &TokenFile| {
            let set = ValidationSet::new(tokens.clone(), 6, Windows::Anywhere, Some(18)).unwrap();
            set.text_bytes(&words(41)).unwrap()
        };
        let (windows, mixed) = bytes(vec![(first.clone(), 1.0), (second.clone(), 1.0)]);
        assert_eq!((windows, mixed), (6, alone(&first) + alone(&second)));
    }
}
