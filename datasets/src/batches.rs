//! Windows of tokens for training, drawn by seed and step, and for validation, in order.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use tern_format::tokenizer::Tokenizer;

use crate::config::Windows;
use crate::error::{Error, Result};
use crate::token_file::TokenFile;

/// Training windows: drawn uniformly, with replacement, from the one stream of all documents.
///
/// The window of sequence `i` in step `s` is a function of (seed, s, i) alone: `i` is the block of
/// a ChaCha8 key stream whose key is the seed and whose number is the step. So a resumed run sees
/// what the uninterrupted one does, and cutting a step into other micro-batches changes none of its
/// windows.
#[derive(Clone, Debug)]
pub struct Batches {
    tokens: TokenFile,
    seq_len: usize,
    /// Starts of documents to choose from; without them, every token is a start.
    documents: Option<Vec<usize>>,
    key: [u8; 32],
}

impl Batches {
    /// Windows of `seq_len` inputs and as many targets, the same shifted by one.
    ///
    /// # Errors
    ///
    /// A corpus shorter than one window, or [`Windows::Documents`] where none is whole.
    pub fn new(tokens: TokenFile, seq_len: usize, windows: Windows, seed: u64) -> Result<Self> {
        check_length(&tokens, seq_len)?;
        let documents = match windows {
            Windows::Anywhere => None,
            Windows::Documents => Some(document_starts(&tokens, seq_len)?),
        };
        let key = Sha256::new().chain_update(b"tern batches").chain_update(seed.to_le_bytes());
        Ok(Self { tokens, seq_len, documents, key: key.finalize().into() })
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
            let start = self.start(step, micro_step * micro_batch + row);
            windows.extend(self.tokens.ids(start..start + width));
        }
        windows
    }

    /// Where the windows of a step start, an index into the training tokens each.
    pub fn starts(&self, step: u64, sequences: usize) -> Vec<u64> {
        (0..sequences).map(|sequence| self.start(step, sequence) as u64).collect()
    }

    /// Where the window of a sequence starts.
    fn start(&self, step: u64, sequence: usize) -> usize {
        const WORDS_PER_BLOCK: u128 = 16;
        let mut rng = ChaCha8Rng::from_seed(self.key);
        rng.set_stream(step);
        rng.set_word_pos(sequence as u128 * WORDS_PER_BLOCK);
        // 64 bits of fraction: the bias for any corpus that fits a disk is below 1e-6.
        let mut draw = |n: usize| ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize;
        match &self.documents {
            None => draw(self.tokens.len() - self.seq_len),
            Some(starts) => starts[draw(starts.len())],
        }
    }
}

/// Validation windows: from the first token on, in order, without overlap.
#[derive(Clone, Debug)]
pub struct ValidationSet {
    tokens: TokenFile,
    seq_len: usize,
    starts: Vec<usize>,
}

impl ValidationSet {
    /// As many whole windows as predict at most `valid_tokens` tokens, or as the file has.
    ///
    /// # Errors
    ///
    /// As [`Batches::new`].
    pub fn new(
        tokens: TokenFile,
        seq_len: usize,
        windows: Windows,
        valid_tokens: Option<usize>,
    ) -> Result<Self> {
        check_length(&tokens, seq_len)?;
        let most = (valid_tokens.unwrap_or(usize::MAX) / seq_len).max(1);
        let starts = match windows {
            // The last target of a window is the first input of the next.
            Windows::Anywhere => (0..tokens.len() - seq_len).step_by(seq_len).take(most).collect(),
            Windows::Documents => {
                let mut end = 0;
                let mut free = |start: &usize| {
                    let free = *start >= end;
                    end = if free { start + seq_len } else { end };
                    free
                };
                let starts = document_starts(&tokens, seq_len)?;
                starts.into_iter().filter(|start| free(start)).take(most).collect()
            }
        };
        Ok(Self { tokens, seq_len, starts })
    }

    /// The number of windows, at least one.
    pub fn windows(&self) -> usize {
        self.starts.len()
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
        let window = |start: &usize| self.tokens.ids(*start..start + self.seq_len + 1);
        self.starts.iter().skip(first).take(micro_batch).flat_map(window).collect()
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
        let header = self.tokens.header();
        let mut bytes = 0;
        let mut document = Vec::new();
        let targets = |start: &usize| self.tokens.ids(start + 1..start + 1 + self.seq_len);
        let mut end = 1;
        for (start, id) in
            self.starts.iter().flat_map(|start| targets(start).map(move |id| (*start, id)))
        {
            // A window that does not go on where the one before it ended opens another text.
            let gap = start + 1 > end;
            end = end.max(start + 1 + self.seq_len);
            if gap || Some(id) == header.bos || Some(id) == header.eos {
                bytes += tokenizer.decode(&document)?.len();
                document.clear();
            }
            if Some(id) != header.bos && Some(id) != header.eos {
                document.push(id);
            }
        }
        Ok(bytes + tokenizer.decode(&document)?.len())
    }
}

/// Positions of BOS from which a whole window follows.
fn document_starts(tokens: &TokenFile, seq_len: usize) -> Result<Vec<usize>> {
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

fn check_length(tokens: &TokenFile, seq_len: usize) -> Result<()> {
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
    use crate::token_file::tests::{file, words};

    #[test]
    fn a_batch_is_a_function_of_seed_step_and_sequence() {
        let (_folder, tokens) = file(5000, &(3..5000).collect::<Vec<_>>());
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
        let (_folder, tokens) = file(41, &ids);
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
    fn validation_windows_cover_in_order() {
        let (_folder, tokens) = file(41, &(3..41).collect::<Vec<_>>());
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
    fn a_corpus_shorter_than_a_window_is_refused() {
        let (_folder, tokens) = file(9, &[3, 4, 5]);
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
        let (_folder, tokens) = file(10, &stream[1..15]);
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
}
