//! What a prepared directory holds, in numbers.

use serde::Serialize;

use crate::prepared::Prepared;
use crate::summary::Side;
use crate::token_file::TokenFile;
use tern_format::tokenizer::Tokenizer;

/// How many of the most frequent tokens are listed.
const TOP: usize = 20;

/// The numbers of a prepared directory.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// SHA-256 over settings and inputs.
    pub sha256: String,
    /// One more than the largest id.
    pub vocab_size: usize,
    /// The sources of the mixture; one without a name where there is no mixture.
    pub sources: Vec<SourceStats>,
}

/// The numbers of one source.
#[derive(Clone, Debug, Serialize)]
pub struct SourceStats {
    /// Its name.
    pub name: String,
    /// The training side.
    pub train: SideStats,
    /// The validation side.
    pub valid: SideStats,
}

/// The numbers of one side of the split.
#[derive(Clone, Debug, Serialize)]
pub struct SideStats {
    /// Documents, tokens, bytes and characters.
    #[serde(flatten)]
    pub size: Side,
    /// Bytes of text for each token, delimiters included.
    pub bytes_per_token: f64,
    /// Characters of text for each token, delimiters included.
    pub characters_per_token: f64,
    /// The share of tokens that stand for what the vocabulary cannot spell.
    pub unknown_share: f64,
    /// Ids of the vocabulary that never occur.
    pub unused_ids: usize,
    /// Entropy of the tokens taken one by one, in nats: the loss of a model that knows only their
    /// frequencies.
    pub unigram_entropy: f64,
    /// Lengths of documents in tokens, without delimiters.
    pub document_tokens: Percentiles,
    /// The most frequent tokens, most frequent first.
    pub top: Vec<TokenCount>,
}

/// The spread of a set of lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// The shortest.
    pub min: usize,
    /// Five percent are at most this long.
    pub p5: usize,
    /// Half are at most this long.
    pub p50: usize,
    /// 95 percent are at most this long.
    pub p95: usize,
    /// The longest.
    pub max: usize,
    /// The mean.
    pub mean: f64,
}

/// How often a token occurs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenCount {
    /// Its id.
    pub id: u32,
    /// Its spelling in the vocabulary.
    pub token: String,
    /// How often it occurs.
    pub count: u64,
    /// The same as a share of all tokens.
    pub share: f64,
}

/// Counts what an opened directory holds.
pub fn stats(prepared: &Prepared) -> Stats {
    let side = |size, tokens| side_stats(size, tokens, &prepared.tokenizer);
    let records = prepared.summary.sources.iter().zip(&prepared.sources);
    Stats {
        sha256: prepared.summary.sha256.clone(),
        vocab_size: prepared.tokenizer.vocab_size(),
        sources: records
            .map(|(record, source)| SourceStats {
                name: record.name.clone(),
                train: side(record.train.size, &source.train),
                valid: side(record.valid.size, &source.valid),
            })
            .collect(),
    }
}

fn side_stats(size: Side, tokens: &TokenFile, tokenizer: &Tokenizer) -> SideStats {
    let header = tokens.header();
    // The file's size does not bound `vocab_size`, the tokenizer's does: `open_for` compared them.
    let mut counts = vec![0_u64; header.vocab_size];
    let mut lengths = Vec::new();
    let mut length = None;
    for id in tokens.ids(0..tokens.len()) {
        counts[id as usize] += 1;
        let opens = Some(id) == header.bos;
        if opens || Some(id) == header.eos {
            lengths.extend(length.take());
            length = opens.then_some(0);
        } else {
            *length.get_or_insert(0) += 1;
        }
    }
    // Where one id both opens and ends documents, the last one opens none.
    lengths.extend(length.filter(|length| *length > 0));

    let total = (tokens.len() as f64).max(1.0);
    let share = |count: u64| count as f64 / total;
    let mut order: Vec<u32> = (0..header.vocab_size as u32).collect();
    order.sort_by_key(|id| (std::cmp::Reverse(counts[*id as usize]), *id));
    let entry = |id: u32| {
        let count = counts[id as usize];
        TokenCount {
            id,
            token: tokenizer.token(id).unwrap_or_default(),
            count,
            share: share(count),
        }
    };
    SideStats {
        size,
        bytes_per_token: size.text_bytes as f64 / total,
        characters_per_token: size.characters as f64 / total,
        unknown_share: tokenizer.unk().map_or(0.0, |unk| share(counts[unk as usize])),
        unused_ids: counts.iter().filter(|count| **count == 0).count(),
        unigram_entropy: counts
            .iter()
            .filter(|count| **count > 0)
            .map(|count| -share(*count) * share(*count).ln())
            .sum(),
        document_tokens: percentiles(lengths),
        top: order.into_iter().take(TOP).map(entry).filter(|token| token.count > 0).collect(),
    }
}

fn percentiles(mut lengths: Vec<usize>) -> Percentiles {
    lengths.sort_unstable();
    let Some(last) = lengths.len().checked_sub(1) else {
        return Percentiles::default();
    };
    let at = |share: f64| lengths[(share * last as f64).round() as usize];
    let mean = lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
    Percentiles { min: at(0.0), p5: at(0.05), p50: at(0.5), p95: at(0.95), max: at(1.0), mean }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::token_file::tests::{file, words};

    #[test]
    fn every_token_is_counted() {
        let (_directory, tokens) = file(9, &[3, 4, 3, 0, 3, 2, 1, 5]);
        let side = side_stats(Side { text_bytes: 20, ..Side::default() }, &tokens, &words(9));
        assert_eq!(side.top[0], TokenCount { id: 3, token: "w3".to_owned(), count: 3, share: 0.3 });
        assert_eq!((side.unused_ids, side.unknown_share, side.bytes_per_token), (3, 0.1, 2.0));
        let lengths = Percentiles { min: 1, p5: 1, p50: 5, p95: 5, max: 5, mean: 3.0 };
        assert_eq!(side.document_tokens, lengths);
        assert_eq!(percentiles(Vec::new()), Percentiles::default());
        assert_eq!(
            percentiles((1..=101).collect()),
            Percentiles { min: 1, p5: 6, p50: 51, p95: 96, max: 101, mean: 51.0 }
        );
    }
}
