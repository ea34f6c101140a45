//! Tokenizers trained on the corpus: unigram or BPE over bytes, the same from run to run.
//!
//! Both work on GPT-2's spelling of bytes as visible characters (`ByteLevel`), cut into words that
//! carry the space before them. So text comes back exactly as it was, line breaks and runs of
//! spaces included, and with all 256 bytes in the vocabulary nothing is unknown.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rayon::prelude::*;
use tern_format::tokenizer::TokenizerSource;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::Unigram;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, ModelWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use crate::config::TokenizerKind;
use crate::error::{Error, Result};
use crate::unigram_training::train_pieces;

/// Ids 0, 1 and 2 of every vocabulary trained here.
const SPECIAL: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// Longer words (long runs of one character, encoded data) teach nothing and cost quadratic time.
const LONGEST_WORD: usize = 64;

/// Trains a tokenizer on these texts.
///
/// # Errors
///
/// A vocabulary smaller than the alphabet, or larger than the texts support; the error says which
/// size would do.
pub fn train_tokenizer(
    kind: TokenizerKind,
    vocab_size: usize,
    byte_fallback: bool,
    texts: &[String],
) -> Result<TokenizerSource> {
    let words = count_words(texts);
    let mut alphabet: BTreeSet<char> = words.keys().flat_map(|word| word.chars()).collect();
    if byte_fallback {
        alphabet.extend(ByteLevel::alphabet());
    }
    check_smallest(vocab_size, alphabet.len(), byte_fallback)?;
    let (model, reached) = match kind {
        TokenizerKind::Unigram => train_unigram(vocab_size, &alphabet, &words)?,
        TokenizerKind::Bpe => train_bpe(vocab_size, &alphabet, &words)?,
    };
    if reached < vocab_size {
        let rule =
            format!("the text supports only {reached} tokens: {reached} is the most that works");
        return Err(Error::VocabSize { wanted: vocab_size, rule });
    }
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(byte_level()));
    tokenizer.with_decoder(Some(byte_level()));
    tokenizer.add_special_tokens(specials()).map_err(gave_up)?;
    Ok(TokenizerSource::Json(tokenizer.to_string(true).map_err(gave_up)?))
}

fn check_smallest(vocab_size: usize, alphabet: usize, byte_fallback: bool) -> Result<()> {
    let smallest = SPECIAL.len() + alphabet;
    if vocab_size >= smallest && u32::try_from(vocab_size).is_ok() {
        return Ok(());
    }
    let hint = if byte_fallback {
        " (byte_fallback = false leaves out those that the text lacks)"
    } else {
        ""
    };
    let rule = format!(
        "must be between {smallest} (3 special tokens, {alphabet} bytes{hint}) and 2^32 - 1"
    );
    Err(Error::VocabSize { wanted: vocab_size, rule })
}

fn byte_level() -> ByteLevel {
    ByteLevel::new(false, true, true)
}

fn specials() -> Vec<AddedToken> {
    SPECIAL.iter().map(|name| AddedToken::from(*name, true)).collect()
}

fn gave_up(error: tokenizers::Error) -> Error {
    Error::TokenizerTraining { reason: error.to_string() }
}

/// How often each word occurs, in the order of the words: trainers that add floats or break ties
/// in the order of a hash map give another vocabulary each time.
fn count_words(texts: &[String]) -> BTreeMap<String, u64> {
    let count = |text: &String| {
        let mut words: HashMap<String, u64> = HashMap::new();
        let mut split = PreTokenizedString::from(text.as_str());
        // ByteLevel splits every text; if it ever refused one, the text would be left out.
        if byte_level().pre_tokenize(&mut split).is_ok() {
            for (word, ..) in split.get_splits(OffsetReferential::Original, OffsetType::None) {
                if word.chars().nth(LONGEST_WORD).is_none() {
                    *words.entry(word.to_owned()).or_default() += 1;
                }
            }
        }
        words
    };
    let merge = |mut all: HashMap<String, u64>, some: HashMap<String, u64>| {
        for (word, count) in some {
            *all.entry(word).or_default() += count;
        }
        all
    };
    texts.par_iter().map(count).reduce(HashMap::new, merge).into_iter().collect()
}

fn train_bpe(
    vocab_size: usize,
    alphabet: &BTreeSet<char>,
    words: &BTreeMap<String, u64>,
) -> Result<(ModelWrapper, usize)> {
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab_size)
        .special_tokens(specials())
        .initial_alphabet(alphabet.iter().copied().collect())
        .build();
    let words = words.iter().map(|(word, count)| (word.as_str().into(), *count)).collect();
    let unknown = BPE::builder().unk_token(SPECIAL[0].to_owned()).fuse_unk(true);
    let mut model = unknown.build().map_err(gave_up)?;
    trainer.do_train(&words, &mut model).map_err(gave_up)?;
    let reached = tokenizers::Model::get_vocab_size(&model);
    Ok((model.into(), reached))
}

fn train_unigram(
    vocab_size: usize,
    alphabet: &BTreeSet<char>,
    words: &BTreeMap<String, u64>,
) -> Result<(ModelWrapper, usize)> {
    let pieces = train_pieces(words, alphabet, vocab_size - SPECIAL.len());
    let special = SPECIAL.map(|name| (name.to_owned(), 0.0));
    let vocab: Vec<_> = special.into_iter().chain(pieces).collect();
    let reached = vocab.len();
    Ok((Unigram::from(vocab, Some(0), false).map_err(gave_up)?.into(), reached))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use tern_format::tokenizer::Tokenizer;

    const KINDS: [TokenizerKind; 2] = [TokenizerKind::Unigram, TokenizerKind::Bpe];

    fn texts() -> Vec<String> {
        let animals = ["cat", "dog", "bird", "frog", "bear", "fox"];
        let places = ["garden", "forest", "river", "kitchen", "market"];
        let story = |i: usize| {
            let (animal, place) = (animals[i % 6], places[i % 5]);
            format!(
                "Once upon a time there was a little {animal}.\nIt lived in the {place}, number {i}."
            )
        };
        (0..300).map(story).collect()
    }

    fn train(kind: TokenizerKind, vocab_size: usize, byte_fallback: bool) -> Tokenizer {
        let source = train_tokenizer(kind, vocab_size, byte_fallback, &texts()).unwrap();
        Tokenizer::from_source(&source).unwrap()
    }

    #[test]
    fn everything_comes_back_as_it_was() {
        let odd = [
            "",
            " ",
            "a  b\n\n\tc \n",
            "naïve Ω 🦀 ▁ Ġ \u{0} \r\n",
            " leading",
            "</s> <s> <unk> <0x0A>",
        ];
        for kind in KINDS {
            let tokenizer = train(kind, 320, true);
            assert_eq!(tokenizer.vocab_size(), 320);
            let names = (tokenizer.unk(), tokenizer.bos(), tokenizer.eos());
            assert_eq!(names, (Some(0), Some(1), Some(2)));
            for text in odd.into_iter().map(str::to_owned).chain(texts()) {
                let ids = tokenizer.encode_literally(&text).unwrap();
                assert!(ids.iter().all(|id| *id > 2), "{text:?} {ids:?}");
                assert_eq!(tokenizer.decode(&ids).unwrap(), text);
            }
            assert_eq!(tokenizer.encode("</s>").unwrap(), [2]);
        }
    }

    #[test]
    fn training_twice_gives_the_same_bytes() {
        for kind in KINDS {
            let mut shuffled = texts();
            shuffled.reverse();
            for vocab_size in [280, 320] {
                let first = train_tokenizer(kind, vocab_size, true, &texts()).unwrap();
                for _ in 0..5 {
                    assert!(train_tokenizer(kind, vocab_size, true, &shuffled).unwrap() == first);
                }
            }
        }
    }

    #[test]
    fn a_small_closed_alphabet_needs_no_bytes() {
        for kind in KINDS {
            let tokenizer = train(kind, 100, false);
            assert_eq!(tokenizer.vocab_size(), 100);
            let text = &texts()[7];
            let ids = tokenizer.encode_literally(text).unwrap();
            assert_eq!(&tokenizer.decode(&ids).unwrap(), text);
            assert!(ids.len() < text.len() * 2 / 3, "{} ids of {}", ids.len(), text.len());
            assert_eq!(
                tokenizer.encode("the Ωmega").unwrap().iter().filter(|id| **id == 0).count(),
                1
            );
        }
    }

    #[test]
    fn sizes_out_of_reach_are_refused_with_one_that_is_not() {
        let message = |kind, size, bytes| {
            train_tokenizer(kind, size, bytes, &texts()).unwrap_err().to_string()
        };
        for kind in KINDS {
            let error = message(kind, 258, true);
            assert!(
                error
                    .contains("vocab_size = 258: must be between 259 (3 special tokens, 256 bytes"),
                "{error}"
            );
            assert_eq!(train(kind, 259, true).vocab_size(), 259);
            let error = message(kind, 10, false);
            assert!(error.contains("vocab_size = 10: must be between "), "{error}");
            let error = message(kind, 100_000, true);
            let reached: usize =
                error.split("only ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(train(kind, reached, true).vocab_size(), reached, "{error}");
        }
    }

    #[test]
    fn odd_corpora_do_not_stop_the_trainers() {
        let long = "ab".repeat(50_000);
        let corpora = [
            vec![],
            vec![String::new()],
            vec!["a".to_owned()],
            vec![long, "b c".to_owned()],
            vec!["\u{0}\n\n".to_owned()],
        ];
        for kind in KINDS {
            for corpus in &corpora {
                let source = train_tokenizer(kind, 259, true, corpus).unwrap();
                assert_eq!(Tokenizer::from_source(&source).unwrap().vocab_size(), 259);
                assert!(train_tokenizer(kind, 5000, true, corpus).is_err());
            }
        }
    }
}
