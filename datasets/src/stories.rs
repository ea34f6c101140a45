//! An endless embedded corpus of small stories, written for this project.
//!
//! A story is drawn from a grammar: a *plot* (`plots/*.txt`: a want, an obstacle, a turn and an
//! ending) whose slots are filled from a small *lexicon* (`words.txt`) and whose wording varies a
//! little. What is drawn once is referred back to for the rest of the story, so a model has to
//! remember who wanted what.
//!
//! Every choice has a known probability, so every story has a known information content, and the
//! source a known entropy: a loss can be compared with the best that any model can reach
//! ([`Story::bits`]). There are some 2^30 stories, so memorising them does not pay.
//!
//! Rules that keep the stories readable, for people and for very small models: the hero's gender
//! differs from that of all others, so "he" and "she" mean one person only; a class holds words that
//! suit every sentence in which it stands; no word belongs to a few stories only.

mod cast;
mod chance;
mod expansion;
mod lexicon;
mod plots;
mod template;

#[cfg(test)]
mod derivations;
#[cfg(test)]
mod lint;

use chance::Chance;
use plots::Library;

/// A story and what it was worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Story {
    /// One to three paragraphs, separated by a single `\n`; ASCII only; no newline at the end.
    pub text: String,
    /// Information content of the choices behind the text, `-log2 p`, in bits.
    ///
    /// Its mean is the entropy of the choices, an upper bound of that of the text, and equal to it where a text has one
    /// derivation only, as a test finds of every story in a sample. Knowing the part lowers it a little: by `log2(16/15)`
    /// in training, and by 4 in validation for one who could compute the hash, which a model cannot.
    pub bits: f64,
}

/// Which part of all possible stories a story belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// 15 of 16 stories.
    Train,
    /// 1 of 16 stories, held out.
    Valid,
}

/// The `index`-th story of a seed: a pure function, the same on every machine.
pub fn story(seed: u64, index: u64) -> Story {
    let (_, story) = draw(seed, index);
    story
}

/// The part that a text belongs to: validation where the top four bits of its FNV-1a hash (64 bits) are zero.
///
/// The text alone decides, so training and validation share no story, whatever their seeds.
pub fn split_of(text: &str) -> Split {
    // The top bits: the low bits of FNV-1a depend on the low bits of the input only.
    if fnv1a(text.as_bytes()) >> 60 == 0 { Split::Valid } else { Split::Train }
}

/// All stories of a seed that belong to one part, in order, without end.
pub fn stories(seed: u64, split: Split) -> impl Iterator<Item = Story> {
    (0..u64::MAX).map(move |index| story(seed, index)).filter(move |s| split_of(&s.text) == split)
}

/// The story and the index of its plot.
fn draw(seed: u64, index: u64) -> (usize, Story) {
    let library = Library::get();
    let mut chance = Chance::new(seed, index);
    let plot = chance.weighted(library.plots.iter().map(|_| 1));
    let text = match library.plots.get(plot) {
        Some(plot) => expansion::expand(&library.lexicon, plot, &mut chance),
        None => String::new(),
    };
    (plot, Story { text: expansion::agree_articles(&text), bits: chance.bits() })
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn a_story_is_a_pure_function_of_seed_and_index() {
        for index in 0..50 {
            assert_eq!(story(7, index), story(7, index));
        }
        let first: HashSet<String> = (0..50).map(|i| story(7, i).text).collect();
        assert!((0..50).all(|i| !first.contains(&story(8, i).text)));
        assert_eq!(
            stories(3, Split::Train).take(20).collect::<Vec<_>>(),
            stories(3, Split::Train).take(20).collect::<Vec<_>>()
        );
    }

    #[test]
    fn extreme_seeds_and_indices_are_fine() {
        for seed in [0, 1, u64::MAX] {
            for index in [0, 1, u64::from(u32::MAX), u64::MAX] {
                assert!(story(seed, index).text.len() > 100);
            }
        }
    }

    #[test]
    fn there_are_fifty_plots_and_all_are_told() {
        let plots = Library::get().plots.len();
        assert!(plots >= 50, "{plots}");
        let told: HashSet<usize> = (0..2000).map(|i| draw(1, i).0).collect();
        assert_eq!(told.len(), plots);
    }

    #[test]
    fn stories_hardly_ever_repeat() {
        let n = 20_000;
        let distinct: HashSet<String> = (0..n).map(|i| story(1, i).text).collect();
        assert!(n as usize - distinct.len() <= 4, "{} repeats", n as usize - distinct.len());
    }

    #[test]
    fn the_parts_share_no_story_whatever_the_seeds() {
        let train: HashSet<String> = stories(1, Split::Train).take(4000).map(|s| s.text).collect();
        for seed in 1..4 {
            assert!(stories(seed, Split::Valid).take(300).all(|s| !train.contains(&s.text)));
        }
        let valid = (0..16_000).filter(|&i| split_of(&story(5, i).text) == Split::Valid).count();
        assert!((850..1150).contains(&valid), "{valid} of 16,000 held out");
    }

    #[test]
    fn the_hash_is_fnv1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_vocabulary_is_a_few_hundred_words_and_none_is_rare() {
        let n = 20_000;
        let mut words: HashMap<String, usize> = HashMap::new();
        for i in 0..n {
            for word in story(2, i).text.split(|c: char| !c.is_ascii_alphabetic() && c != '\'') {
                let word = word.trim_matches('\'').trim_end_matches("'s").to_ascii_lowercase();
                if !word.is_empty() {
                    *words.entry(word).or_default() += 1;
                }
            }
        }
        assert!((350..=620).contains(&words.len()), "{} words", words.len());
        let rare: Vec<_> = words.iter().filter(|&(_, &count)| count < 20).collect();
        assert!(rare.is_empty(), "{rare:?}");
    }

    #[test]
    fn lengths_and_bits_are_as_stated() {
        let n = 5000;
        let mut bits = 0.0;
        for i in 0..n {
            let story = story(9, i);
            bits += story.bits;
            let words = story.text.split_whitespace().count();
            assert!((45..=150).contains(&words), "{words} words: {}", story.text);
            assert!(story.bits.is_finite() && story.bits > 18.0, "{} bits", story.bits);
            assert!(story.text.is_ascii() && !story.text.ends_with('\n'));
            assert!(story.text.split('\n').count() <= 3);
        }
        let mean = bits / n as f64;
        assert!((25.0..45.0).contains(&mean), "{mean} bits a story");
    }
}
