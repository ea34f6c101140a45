//! What the best model could reach.

use super::story;

/// The entropy of the source, estimated over a sample of stories.
///
/// A story's bits are `-log2` of the probability of the choices behind it; their mean is the entropy
/// of the choices. That is an upper bound of the entropy of the text, and equals it where a text has
/// one derivation only: a test parses a sample of stories back and finds just one for each. So a
/// model's mean loss is below [`nats_per_token`](Self::nats_per_token) by chance of the sample only,
/// or by having seen it.
///
/// Knowing the part lowers this a little: by `log2(16/15) = 0.09` bits a story in training, and by 4
/// in validation for one who could compute the hash, which a model cannot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntropyRate {
    /// The size of the sample.
    pub stories: u64,
    /// Mean information content of a story.
    pub bits_per_story: f64,
    /// Standard error of `bits_per_story`.
    pub bits_per_story_error: f64,
    /// Mean length of a story in characters (bytes: the text is ASCII).
    pub characters_per_story: f64,
    /// Mean length of a story in words, as white space separates them.
    pub words_per_story: f64,
    /// Mean information per character.
    pub nats_per_character: f64,
    /// Mean information per word.
    pub bits_per_word: f64,
}

impl EntropyRate {
    /// The lowest mean loss, in nats per token, for a tokenizer that makes so many tokens of a story.
    ///
    /// Count what the model predicts: the end of the document too, if that is a token of its own.
    pub fn nats_per_token(&self, tokens_per_story: f64) -> f64 {
        self.bits_per_story * std::f64::consts::LN_2 / tokens_per_story
    }
}

/// Measures the entropy over the first `stories` stories of a seed; all zero if there are none.
pub fn entropy_rate(seed: u64, stories: u64) -> EntropyRate {
    let (mut bits, mut squares, mut characters, mut words) = (0.0, 0.0, 0usize, 0usize);
    for index in 0..stories {
        let story = story(seed, index);
        bits += story.bits;
        squares += story.bits * story.bits;
        characters += story.text.len();
        words += story.text.split_whitespace().count();
    }
    let n = stories.max(1) as f64;
    let (mean, characters, words) = (bits / n, characters as f64, words as f64);
    let variance = (squares / n - mean * mean).max(0.0);
    EntropyRate {
        stories,
        bits_per_story: mean,
        bits_per_story_error: (variance / n).sqrt(),
        characters_per_story: characters / n,
        words_per_story: words / n,
        nats_per_character: bits * std::f64::consts::LN_2 / characters.max(1.0),
        bits_per_word: bits / words.max(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_has_25_to_45_bits() {
        let rate = entropy_rate(1, 2000);
        assert!((25.0..45.0).contains(&rate.bits_per_story), "{rate:?}");
        assert!((0.25..0.5).contains(&rate.bits_per_word), "{rate:?}");
        assert!(rate.bits_per_story_error < 0.2, "{rate:?}");
        let nats = rate.nats_per_token(rate.characters_per_story);
        assert!((nats - rate.nats_per_character).abs() < 1e-12);
    }

    #[test]
    fn an_empty_sample_is_zero() {
        assert_eq!(entropy_rate(1, 0).bits_per_story, 0.0);
        assert_eq!(entropy_rate(1, 0).nats_per_character, 0.0);
    }
}
