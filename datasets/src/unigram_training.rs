//! The unigram language model's pieces and their scores (arXiv:1804.10959), from counted words.
//!
//! The `tokenizers` crate has such a trainer and its models are what this one's result becomes.
//! But on words it takes as candidates only substrings that go on in two ways, which no whole word
//! does: with 369 pieces the embedded stories took 286 tokens each, against 198 with its BPE. It
//! also adds floats in the order of a hash map, so that no two runs agreed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The longest piece, in characters, as in SentencePiece.
const LONGEST_PIECE: usize = 16;
/// The most candidates that the search begins with.
const MOST_CANDIDATES: usize = 100_000;
/// Each round keeps this share of the pieces. At 0.75 TinyStories takes 1 to 3% more tokens.
const SHRINKING: f64 = 0.9;
/// The least that a piece is expected: unused letters stay, and scores stay finite.
const LEAST: f64 = 0.1;

/// A word's count, length, and the pieces that fit it: start, end, number of the piece.
struct Word {
    count: f64,
    len: usize,
    edges: Vec<(usize, usize, usize)>,
}

/// Chooses `size` pieces, the alphabet among them, that make the words likely; best first, each
/// with the logarithm of its probability. There are fewer if the words hold no more.
pub(crate) fn train_pieces(
    words: &BTreeMap<String, u64>,
    alphabet: &BTreeSet<char>,
    size: usize,
) -> Vec<(String, f64)> {
    let mut pieces: Vec<(String, f64)> = candidates(words, alphabet);
    let letters = alphabet.len();
    let mut lattice = fit(words, &pieces);
    loop {
        for _ in 0..2 {
            maximize(&mut pieces, &lattice);
        }
        if pieces.len() <= size {
            break;
        }
        let kept = prune(&pieces, &lattice, letters, size);
        forget(&mut pieces, &mut lattice, &kept);
    }
    pieces.sort_by(|(a, a_score), (b, b_score)| b_score.total_cmp(a_score).then_with(|| a.cmp(b)));
    pieces
}

/// The alphabet, then the substrings that occur at least twice, by how much text they cover.
fn candidates(words: &BTreeMap<String, u64>, alphabet: &BTreeSet<char>) -> Vec<(String, f64)> {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for (word, count) in words {
        let bounds = bounds(word);
        for (first, &start) in bounds.iter().enumerate() {
            for &end in bounds[first + 1..].iter().take(LONGEST_PIECE) {
                *counts.entry(&word[start..end]).or_default() += count;
            }
        }
    }
    let is_letter = |piece: &str| piece.chars().nth(1).is_none();
    let mut found: Vec<(&str, u64)> = counts
        .iter()
        .map(|(piece, count)| (*piece, *count))
        .filter(|(piece, count)| *count > 1 && !is_letter(piece))
        .collect();
    found.sort_by_key(|(piece, count)| {
        (std::cmp::Reverse(count * piece.chars().count() as u64), *piece)
    });
    found.truncate(MOST_CANDIDATES);
    let letter = |letter: &char| {
        let letter = letter.to_string();
        let count = counts.get(letter.as_str()).copied().unwrap_or_default();
        (letter, (count as f64).max(LEAST))
    };
    let found = found.into_iter().map(|(piece, count)| (piece.to_owned(), count as f64));
    let mut pieces: Vec<_> = alphabet.iter().map(letter).chain(found).collect();
    let total: f64 = pieces.iter().map(|(_, count)| count).sum();
    pieces.iter_mut().for_each(|(_, count)| *count = (*count / total).ln());
    pieces
}

/// Where the characters of a word begin, and where the last ends.
fn bounds(word: &str) -> Vec<usize> {
    word.char_indices().map(|(at, _)| at).chain([word.len()]).collect()
}

fn fit(words: &BTreeMap<String, u64>, pieces: &[(String, f64)]) -> Vec<Word> {
    let numbers: HashMap<&str, usize> =
        pieces.iter().enumerate().map(|(number, (piece, _))| (piece.as_str(), number)).collect();
    words
        .iter()
        .map(|(word, count)| Word { count: *count as f64, ..fit_word(word, &numbers) })
        .collect()
}

fn fit_word(word: &str, numbers: &HashMap<&str, usize>) -> Word {
    let bounds = bounds(word);
    let len = bounds.len() - 1;
    let mut edges = Vec::new();
    for start in 0..len {
        for end in start + 1..=len.min(start + LONGEST_PIECE) {
            if let Some(&number) = numbers.get(&word[bounds[start]..bounds[end]]) {
                edges.push((start, end, number));
            }
        }
    }
    Word { count: 1.0, len, edges }
}

/// One round of expectation and maximization: each piece's expected count over all segmentations
/// becomes its probability, through the digamma function, which starves the rare ones.
fn maximize(pieces: &mut [(String, f64)], words: &[Word]) {
    let mut expected = vec![0.0; pieces.len()];
    for word in words {
        // Logarithms of the summed probabilities of what precedes and what follows each position.
        let mut before = vec![f64::NEG_INFINITY; word.len + 1];
        let mut after = before.clone();
        before[0] = 0.0;
        after[word.len] = 0.0;
        for &(start, end, number) in &word.edges {
            before[end] = add_logs(before[end], before[start] + pieces[number].1);
        }
        for &(start, end, number) in word.edges.iter().rev() {
            after[start] = add_logs(after[start], after[end] + pieces[number].1);
        }
        for &(start, end, number) in &word.edges {
            let share = (before[start] + pieces[number].1 + after[end] - before[word.len]).exp();
            expected[number] += word.count * share;
        }
    }
    let expected = expected.into_iter().map(|count: f64| count.max(LEAST));
    let total = digamma(expected.clone().sum());
    for ((_, score), expected) in pieces.iter_mut().zip(expected) {
        *score = digamma(expected) - total;
    }
}

/// `ln(exp(a) + exp(b))`.
fn add_logs(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// The derivative of `ln(gamma(x))` for positive `x`: recurrence, then the asymptotic series.
fn digamma(mut x: f64) -> f64 {
    let mut result = 0.0;
    while x < 7.0 {
        result -= 1.0 / x;
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    result + x.ln() - 0.5 / x - inverse * (1.0 / 12.0 - inverse * (1.0 / 120.0 - inverse / 252.0))
}

/// The likeliest segmentation; `whole` forbids the piece that is the word itself.
fn segment(word: &Word, pieces: &[(String, f64)], whole: bool) -> Vec<usize> {
    let mut best = vec![(f64::NEG_INFINITY, 0, 0); word.len + 1];
    best[0].0 = 0.0;
    for &(start, end, number) in &word.edges {
        let score = best[start].0 + pieces[number].1;
        if score > best[end].0 && (whole || end - start < word.len) {
            best[end] = (score, start, number);
        }
    }
    let mut numbers = Vec::new();
    let mut end = word.len;
    while end > 0 && best[end].0 > f64::NEG_INFINITY {
        numbers.push(best[end].2);
        end = best[end].1;
    }
    numbers
}

/// The pieces to keep, in order: every letter, and those others whose loss would cost most
/// likelihood if the words that use one used its best segmentation into other pieces instead.
fn prune(pieces: &[(String, f64)], words: &[Word], letters: usize, size: usize) -> Vec<usize> {
    let mut used = vec![0.0; pieces.len()];
    for word in words {
        for number in segment(word, pieces, true) {
            used[number] += word.count;
        }
    }
    let total: f64 = used.iter().sum();
    let numbers: HashMap<&str, usize> =
        pieces.iter().enumerate().map(|(number, (piece, _))| (piece.as_str(), number)).collect();
    let cost = |number: usize| {
        let instead = segment(&fit_word(&pieces[number].0, &numbers), pieces, false);
        let total_after: f64 = total + used[number] * (instead.len() as f64 - 1.0);
        let log = |other: &usize| (used[*other] + used[number]).ln() - total_after.ln();
        used[number] * (used[number].ln() - total.ln() - instead.iter().map(log).sum::<f64>())
    };
    // What is not used costs nothing, and goes first, in the order of the candidates.
    let cost = |number: usize| if used[number] > 0.0 { cost(number).max(0.0) } else { -1.0 };
    let mut costs: Vec<(f64, usize)> =
        (letters..pieces.len()).map(|number| (cost(number), number)).collect();
    costs.sort_by(|(a, a_number), (b, b_number)| b.total_cmp(a).then(a_number.cmp(b_number)));
    let in_use = used.iter().filter(|count| **count > 0.0).count();
    let target = size.max((pieces.len() as f64 * SHRINKING) as usize).min(in_use.max(size));
    let mut kept: Vec<usize> =
        costs.into_iter().map(|(_, number)| number).take(target - letters).collect();
    kept.sort_unstable();
    (0..letters).chain(kept).collect()
}

/// Leaves only these pieces, in the pieces and in the words.
fn forget(pieces: &mut Vec<(String, f64)>, words: &mut [Word], kept: &[usize]) {
    let mut renumbered = vec![None; pieces.len()];
    for (new, &old) in kept.iter().enumerate() {
        renumbered[old] = Some(new);
    }
    for word in words {
        word.edges
            .retain_mut(|(_, _, number)| renumbered[*number].map(|new| *number = new).is_some());
    }
    let mut old = 0..;
    pieces.retain(|_| old.next().is_some_and(|old: usize| renumbered[old].is_some()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_words_become_pieces() {
        let words =
            [("Ġthe", 500), ("Ġcat", 90), ("Ġcats", 40), ("Ġdog", 80), ("Ġdogs", 50), ("Ġx", 1)];
        let words: BTreeMap<String, u64> =
            words.map(|(word, count)| (word.to_owned(), count)).into();
        let alphabet: BTreeSet<char> =
            words.keys().flat_map(|word| word.chars()).chain(['q']).collect();
        let pieces = train_pieces(&words, &alphabet, alphabet.len() + 4);
        assert_eq!(pieces.len(), alphabet.len() + 4);
        for piece in ["Ġthe", "Ġcat", "Ġdog", "s", "q", "x"] {
            assert!(
                pieces.iter().any(|(found, score)| found == piece && score.is_finite()),
                "{piece}: {pieces:?}"
            );
        }
        assert!(pieces.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        assert_eq!(pieces[0].0, "Ġthe");
        let all = train_pieces(&words, &alphabet, 1000);
        assert!(all.len() < 60, "{}", all.len());
    }

    #[test]
    fn digamma_is_the_derivative() {
        // Euler's constant, and psi(1/2) = -gamma - 2 ln 2.
        assert!((digamma(1.0) + 0.577_215_664_9).abs() < 1e-6);
        assert!((digamma(0.5) + 1.963_510_026).abs() < 1e-6);
    }
}
