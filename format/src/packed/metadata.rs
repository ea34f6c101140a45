//! What a packed model says of itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Encoding;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::tokenizer::{Tokenizer, TokenizerSource};

/// The version of the format that this program writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The most ids that a [`Check`] holds.
pub const MOST_CHECK_IDS: usize = 4096;

/// Everything but the tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// How trits become bytes.
    pub encoding: Encoding,
    /// The architecture, every part stated.
    pub config: ModelConfig,
    /// The bytes of the tokenizer that the model was trained with.
    pub tokenizer: TokenizerSource,
    /// The id that begins a document.
    pub bos: Option<u32>,
    /// Whether a text to go on from begins with it.
    pub add_bos: bool,
    /// The id that ends a document.
    pub eos: Option<u32>,
    /// A Jinja template that turns a conversation into text.
    pub chat_template: Option<String>,
    /// What `generate` does when nothing else is asked for.
    pub generation: GenerationDefaults,
    /// Where the weights came from; absent on imports.
    pub provenance: Option<Provenance>,
    /// Tokens and the trainer's loss on them; absent on imports.
    pub check: Option<Check>,
}

/// What `generate` does when nothing else is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationDefaults {
    /// Divides the logits; 0 takes the largest. Unit: none.
    #[schemars(range(min = 0.0))]
    pub temperature: f32,
    /// Keeps this many of the likeliest tokens; 0 keeps all. Unit: tokens.
    pub top_k: usize,
    /// Keeps the likeliest tokens up to this share; 1 keeps all. Unit: none.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1.0))]
    pub top_p: f32,
    /// Keeps tokens at least this share of the likeliest; 0 keeps all. Unit: none.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_p: f32,
    /// Divides the logits of tokens already there; 1 changes nothing. Unit: none.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub repetition_penalty: f32,
    /// The most tokens to add. Unit: tokens.
    #[schemars(range(max = 16_777_216))]
    pub max_tokens: usize,
    /// The text to go on from.
    pub prompt: String,
}

impl Default for GenerationDefaults {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            max_tokens: 200,
            prompt: String::new(),
        }
    }
}

/// Where the weights came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Name of the run.
    pub run: String,
    /// Optimizer steps.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Identity of the data: SHA-256 over their settings and sources, in hexadecimal.
    pub data_identity: String,
    /// Licence of the training text.
    pub data_licence: Option<String>,
    /// Licence of the teacher, where there was one.
    pub teacher_licence: Option<String>,
    /// Commit of the program that trained.
    pub commit: String,
    /// Validation loss at that step, nats per token.
    pub val_loss: Option<f64>,
}

/// Tokens, and the loss that the trainer measured on them with the weights of this file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Each is read from position 0; its first id is context only. At most [`MOST_CHECK_IDS`] ids in all.
    pub windows: Vec<Vec<u32>>,
    /// Mean over every predicted id of every window, nats per token.
    pub loss: f64,
}

impl Check {
    /// How many ids the loss is the mean over.
    pub fn predictions(&self) -> usize {
        self.windows.iter().map(|window| window.len().saturating_sub(1)).sum()
    }
}

impl Metadata {
    /// Metadata of a model that says no more than it must.
    pub fn new(config: ModelConfig, tokenizer: TokenizerSource) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            encoding: Encoding::T2,
            config,
            tokenizer,
            bos: None,
            add_bos: true,
            eos: None,
            chat_template: None,
            generation: GenerationDefaults::default(),
            provenance: None,
            check: None,
        }
    }

    /// Checks every entry against its rule.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::FormatVersion`] or [`Error::Metadata`] with the key, the rule and the value.
    pub fn validate(&self) -> Result<()> {
        if self.format_version != FORMAT_VERSION {
            return Err(version(&self.format_version.to_string()));
        }
        self.config.validate()?;
        let vocab_size = self.config.vocab_size;
        for (key, id) in [("bos_token_id", self.bos), ("eos_token_id", self.eos)] {
            if let Some(id) = id {
                rule(in_vocabulary(id, vocab_size), key, || below(id, vocab_size))?;
            }
        }
        let generation = self.generation.validate();
        generation.map_err(|(setting, broken)| Error::Metadata {
            key: "generation".into(),
            rule: format!("{setting} {broken}"),
        })?;
        if let Some(loss) = self.provenance.as_ref().and_then(|provenance| provenance.val_loss) {
            rule(loss.is_finite(), "provenance", || format!("val_loss must be finite, is {loss}"))?;
        }
        self.check.as_ref().map_or(Ok(()), |check| check.validate(&self.config))
    }

    /// Builds the tokenizer that the file carries.
    ///
    /// # Errors
    ///
    /// Bytes that are no tokenizer, or what [`Self::validate_tokenizer`] refuses.
    pub fn read_tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::from_source(&self.tokenizer)?;
        self.validate_tokenizer(tokenizer.vocab_size())?;
        Ok(tokenizer)
    }

    /// Checks that the tokenizer has no id that the model lacks, and that BOS and EOS are among its tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Metadata`] with the size of the vocabulary and the value found.
    pub fn validate_tokenizer(&self, tokenizer_vocab_size: usize) -> Result<()> {
        let vocab_size = self.config.vocab_size;
        rule(tokenizer_vocab_size <= vocab_size, "tokenizer", || {
            format!("its vocabulary must fit vocab_size {vocab_size}, has {tokenizer_vocab_size}")
        })?;
        for (key, id) in [("bos_token_id", self.bos), ("eos_token_id", self.eos)] {
            if let Some(id) = id {
                rule(in_vocabulary(id, tokenizer_vocab_size), key, || {
                    format!(
                        "must be a token of the tokenizer, which has {tokenizer_vocab_size}, is {id}"
                    )
                })?;
            }
        }
        Ok(())
    }
}

impl GenerationDefaults {
    /// Checks every setting against its rule.
    ///
    /// # Errors
    ///
    /// The setting; the rule and the value found.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        let Self { temperature, top_p, min_p, repetition_penalty, max_tokens, .. } = *self;
        for (holds, name, must, value) in [
            (
                temperature.is_finite() && temperature >= 0.0,
                "temperature",
                "at least 0",
                temperature,
            ),
            (top_p > 0.0 && top_p <= 1.0, "top_p", "above 0 and at most 1", top_p),
            ((0.0..=1.0).contains(&min_p), "min_p", "0 to 1", min_p),
            (
                repetition_penalty.is_finite() && repetition_penalty > 0.0,
                "repetition_penalty",
                "above 0",
                repetition_penalty,
            ),
        ] {
            if !holds {
                return Err((name, format!("must be {must}, is {value}")));
            }
        }
        // As for `max_position_embeddings`: more is no number of tokens.
        if max_tokens > 1 << 24 {
            return Err(("max_tokens", format!("must be at most {}, is {max_tokens}", 1 << 24)));
        }
        Ok(())
    }
}

impl Check {
    fn validate(&self, config: &ModelConfig) -> Result<()> {
        let rule = |holds: bool, text: &dyn Fn() -> String| rule(holds, "check", text);
        rule(self.loss.is_finite(), &|| format!("loss must be finite, is {}", self.loss))?;
        rule(!self.windows.is_empty(), &|| "there must be a window, is none".into())?;
        let ids: usize = self.windows.iter().map(Vec::len).sum();
        rule(ids <= MOST_CHECK_IDS, &|| format!("at most {MOST_CHECK_IDS} ids, are {ids}"))?;
        // The last id is predicted and never read, so it needs no position.
        let most = config.max_position_embeddings + 1;
        for (w, window) in self.windows.iter().enumerate() {
            rule((2..=most).contains(&window.len()), &|| {
                format!("window {w} must have 2 to {most} ids, has {}", window.len())
            })?;
            for (i, &id) in window.iter().enumerate() {
                rule(in_vocabulary(id, config.vocab_size), &|| {
                    format!("window {w}, id {i} {}", below(id, config.vocab_size))
                })?;
            }
        }
        Ok(())
    }
}

fn in_vocabulary(id: u32, vocab_size: usize) -> bool {
    (id as usize) < vocab_size
}

fn below(id: u32, vocab_size: usize) -> String {
    format!("must be below vocab_size {vocab_size}, is {id}")
}

pub(super) fn rule(holds: bool, key: &str, rule: impl Fn() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Metadata { key: key.into(), rule: rule() }) }
}

pub(super) fn version(found: &str) -> Error {
    Error::FormatVersion { found: found.into(), reads: FORMAT_VERSION }
}
