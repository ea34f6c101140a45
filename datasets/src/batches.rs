//! Windows of tokens for training, drawn by seed and step.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::config::Windows;
use crate::error::{Error, Result};
use crate::token_file::TokenFile;

pub use crate::validation::ValidationSet;

/// Training windows: each from a source drawn by weight, and there drawn uniformly, with replacement, from the one
/// stream of all documents.
///
/// Source and window of sequence `i` in step `s` are a function of (seed, s, i) alone: `i` is the block of
/// a ChaCha8 key stream whose key is the seed and whose number is the step. So a resumed run sees
/// what the uninterrupted one does, and cutting a step into other micro-batches changes none of its
/// windows.
#[derive(Clone, Debug)]
pub struct Batches {
    sources: Vec<Source>,
    seq_len: usize,
    key: [u8; 32],
}

#[derive(Clone, Debug)]
struct Source {
    tokens: TokenFile,
    /// Starts of documents to choose from; without them, every token is a start.
    documents: Option<Vec<usize>>,
    /// The share of windows that come from this source or one before it.
    share_up_to: f64,
}

impl Batches {
    /// Windows of `seq_len` inputs and as many targets, the same shifted by one, from one source.
    ///
    /// # Errors
    ///
    /// A corpus shorter than one window, or [`Windows::Documents`] where none is whole.
    pub fn new(tokens: TokenFile, seq_len: usize, windows: Windows, seed: u64) -> Result<Self> {
        Self::mixture(vec![(tokens, 1.0)], seq_len, windows, seed)
    }

    /// The same from several sources, each as often as its weight has it among the sum of all.
    ///
    /// # Errors
    ///
    /// As [`Self::new`], for any source.
    pub fn mixture(
        weighted: Vec<(TokenFile, f64)>,
        seq_len: usize,
        windows: Windows,
        seed: u64,
    ) -> Result<Self> {
        let total: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        let mut up_to = 0.0;
        let mut sources = Vec::new();
        for (tokens, weight) in weighted {
            check_length(&tokens, seq_len)?;
            let documents = match windows {
                Windows::Anywhere => None,
                Windows::Documents => Some(document_starts(&tokens, seq_len)?),
            };
            up_to += weight / total;
            sources.push(Source { tokens, documents, share_up_to: up_to });
        }
        let key = Sha256::new().chain_update(b"tern batches").chain_update(seed.to_le_bytes());
        Ok(Self { sources, seq_len, key: key.finalize().into() })
    }

    /// The windows of one forward pass.
    ///
    /// # Shapes
    ///
    /// - returns `[micro_batch, seq_len + 1]`, row by row: inputs are all but the last of a row,
    ///   targets all but the first
    pub fn batch(&self, step: u64, micro_step: usize, micro_batch: usize) -> Vec<u32> {
        let width = self.seq_len + 1;
        let mut windows = Vec::with_capacity(micro_batch * width);
        for row in 0..micro_batch {
            let (source, start) = self.draw(step, micro_step * micro_batch + row);
            windows.extend(self.sources[source].tokens.ids(start..start + width));
        }
        windows
    }

    /// Where the windows of a step start, an index into the training tokens each; those of several sources are counted
    /// one behind the other.
    pub fn starts(&self, step: u64, sequences: usize) -> Vec<u64> {
        let start = |sequence| {
            let (source, start) = self.draw(step, sequence);
            let before = self.sources[..source].iter().map(|source| source.tokens.len());
            (before.sum::<usize>() + start) as u64
        };
        (0..sequences).map(start).collect()
    }

    /// The source of the window of a sequence, and where the window starts in it.
    fn draw(&self, step: u64, sequence: usize) -> (usize, usize) {
        const WORDS_PER_BLOCK: u128 = 16;
        let mut rng = ChaCha8Rng::from_seed(self.key);
        rng.set_stream(step);
        rng.set_word_pos(sequence as u128 * WORDS_PER_BLOCK);
        let start = rng.next_u64();
        let share = (rng.next_u64() >> 11) as f64 / 2f64.powi(53);
        let drawn = self.sources.iter().position(|source| share < source.share_up_to);
        // The shares may add up to a little less than one.
        let number = drawn.unwrap_or(self.sources.len() - 1);
        let source = &self.sources[number];
        // 64 bits of fraction: the bias for any corpus that fits a disk is below 1e-6.
        let below = |n: usize| ((u128::from(start) * n as u128) >> 64) as usize;
        let start = match &source.documents {
            None => below(source.tokens.len() - self.seq_len),
            Some(starts) => starts[below(starts.len())],
        };
        (number, start)
    }
}

/// Positions of BOS from which a whole window follows.
pub(crate) fn document_starts(tokens: &TokenFile, seq_len: usize) -> Result<Vec<usize>> {
    let bos = tokens.header().bos.ok_or(Error::Config {
        key: "windows",
        rule: "documents needs a tokenizer with a token that opens a document".to_owned(),
    })?;
    let last = tokens.len() - seq_len;
    let ids = tokens.ids(0..last).enumerate();
    let starts: Vec<usize> = ids.filter(|(_, id)| *id == bos).map(|(place, _)| place).collect();
    if starts.is_empty() {
        return Err(Error::NoDocumentStart { path: tokens.path().to_owned(), seq_len });
    }
    Ok(starts)
}

pub(crate) fn check_length(tokens: &TokenFile, seq_len: usize) -> Result<()> {
    if seq_len == 0 {
        return Err(Error::Config { key: "seq_len", rule: "must be at least 1, is 0".to_owned() });
    }
    if tokens.len() <= seq_len {
        let path = tokens.path().to_owned();
        return Err(Error::ShorterThanWindow { path, tokens: tokens.len() as u64, seq_len });
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::token_file::tests::file;

    #[test]
    fn a_batch_is_a_function_of_seed_step_and_sequence() {
        let (_directory, tokens) = file(5000, &(3..5000).collect::<Vec<_>>());
        let batches = Batches::new(tokens.clone(), 16, Windows::Anywhere, 7).unwrap();
        let whole = batches.batch(3, 0, 8);
        assert_eq!(whole.len(), 8 * 17);
        assert_eq!(
            whole,
            Batches::new(tokens.clone(), 16, Windows::Anywhere, 7).unwrap().batch(3, 0, 8)
        );
        let halves = [batches.batch(3, 0, 4), batches.batch(3, 1, 4)].concat();
        assert_eq!(whole, halves);
        assert_ne!(whole, batches.batch(4, 0, 8));
        assert_ne!(whole, batches.batch(3, 1, 8));
        assert_ne!(whole, Batches::new(tokens, 16, Windows::Anywhere, 8).unwrap().batch(3, 0, 8));
    }

    #[test]
    fn windows_are_runs_of_the_stream_and_start_everywhere() {
        let ids: Vec<u32> = (3..41).collect();
        let (_directory, tokens) = file(41, &ids);
        let stream: Vec<u32> = tokens.ids(0..tokens.len()).collect();
        assert_eq!(stream.len(), 40);
        let batches = Batches::new(tokens, 8, Windows::Anywhere, 0).unwrap();
        let mut starts = vec![0; 40];
        for window in batches.batch(0, 0, 6400).chunks(9) {
            let start = stream.iter().position(|id| *id == window[0]).unwrap();
            assert_eq!(window, &stream[start..start + 9]);
            starts[start] += 1;
        }
        // 32 starts, 200 draws each on average, standard deviation 14.
        assert!(starts[..32].iter().all(|count| (130..270).contains(count)), "{starts:?}");
        assert!(starts[32..].iter().all(|count| *count == 0), "{starts:?}");
    }

    #[test]
    fn a_corpus_shorter_than_a_window_is_refused() {
        let (_directory, tokens) = file(9, &[3, 4, 5]);
        assert!(Batches::new(tokens.clone(), 4, Windows::Anywhere, 0).is_ok());
        assert!(ValidationSet::new(tokens.clone(), 4, Windows::Anywhere, None).is_ok());
        let error = Batches::new(tokens.clone(), 5, Windows::Anywhere, 0).unwrap_err().to_string();
        assert!(
            error.ends_with("a.tokens: 5 tokens are shorter than one window of seq_len 5 + 1"),
            "{error}"
        );
        let again =
            ValidationSet::new(tokens.clone(), 5, Windows::Anywhere, None).unwrap_err().to_string();
        assert_eq!(error, again);
        assert!(Batches::new(tokens, 0, Windows::Anywhere, 0).is_err());
    }

    #[test]
    fn windows_may_begin_with_documents_only() {
        // BOS is 1, EOS is 2; the writer puts one before and one behind what it is given.
        let stream = [1, 3, 4, 2, 1, 5, 2, 1, 6, 7, 8, 9, 2, 1, 3, 2];
        let (_directory, tokens) = file(10, &stream[1..15]);
        let batches = Batches::new(tokens.clone(), 4, Windows::Documents, 0).unwrap();
        let windows = batches.batch(0, 0, 60);
        let mut firsts: Vec<&[u32]> = windows.chunks(5).collect();
        firsts.sort();
        firsts.dedup();
        // The last document is followed by too little.
        assert_eq!(firsts, [&[1, 3, 4, 2, 1][..], &[1, 5, 2, 1, 6], &[1, 6, 7, 8, 9]]);
        // Validation takes them in order and without overlap: the second begins inside the first window.
        let set = ValidationSet::new(tokens.clone(), 5, Windows::Documents, None).unwrap();
        assert_eq!(set.batch(0, 9), [1, 3, 4, 2, 1, 5, 1, 6, 7, 8, 9, 2]);
        let whole = Batches::new(tokens, 15, Windows::Documents, 0).unwrap();
        assert_eq!(whole.batch(0, 0, 1), stream);
    }

    /// Two sources whose ids tell them apart.
    fn two() -> [(tempfile::TempDir, TokenFile); 2] {
        [file(5000, &(3..2000).collect::<Vec<_>>()), file(5000, &(3000..3500).collect::<Vec<_>>())]
    }

    #[test]
    fn shares_meet_the_weights_and_one_source_is_the_same_alone() {
        let [(_one, first), (_two, second)] = two();
        let weighted = vec![(first.clone(), 3.0), (second, 1.0)];
        let batches = Batches::mixture(weighted, 8, Windows::Anywhere, 7).unwrap();
        let draws = 20_000;
        let windows = batches.batch(5, 0, draws);
        let of_second = windows.chunks(9).filter(|window| window[4] >= 3000).count();
        // 5,000 are expected, with a standard deviation of 61.
        assert!((4_700..5_300).contains(&of_second), "{of_second}");
        let starts = batches.starts(5, draws);
        let beyond = starts.iter().filter(|start| **start >= first.len() as u64).count();
        assert_eq!(beyond, of_second);

        // The second source takes away windows of the first, and changes none.
        let alone = Batches::new(first, 8, Windows::Anywhere, 7).unwrap().batch(5, 0, draws);
        let pairs = windows.chunks(9).zip(alone.chunks(9));
        assert!(pairs.filter(|(mixed, _)| mixed[4] < 3000).all(|(mixed, alone)| mixed == alone));
    }

    #[test]
    fn a_mixture_is_a_function_of_seed_step_and_sequence() {
        let [(_one, first), (_two, second)] = two();
        let weighted = || vec![(first.clone(), 1.0), (second.clone(), 2.0)];
        let new = |seed| Batches::mixture(weighted(), 16, Windows::Anywhere, seed).unwrap();
        let (batches, again) = (new(7), new(7));
        for step in [1, 2, 1 << 40] {
            let whole = batches.batch(step, 0, 8);
            assert_eq!(whole, [again.batch(step, 0, 4), again.batch(step, 1, 4)].concat());
            assert_ne!(whole, new(8).batch(step, 0, 8));
        }
    }

    #[test]
    fn windows_of_one_source_are_those_of_every_earlier_version() {
        let (_directory, tokens) = file(5000, &(3..5000).collect::<Vec<_>>());
        let batches = Batches::new(tokens, 16, Windows::Anywhere, 7).unwrap();
        assert_eq!(batches.starts(3, 6), [1201, 2949, 1280, 290, 4247, 706]);
    }
}
