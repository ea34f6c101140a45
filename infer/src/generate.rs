//! A prompt and what the model makes of it.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::Serialize;
use tern_format::packed::GenerationDefaults;
use tern_format::stream::TextStream;
use tern_format::tokenizer::Tokenizer;

use crate::decoder::Model;
use crate::error::{Error, Result};
use crate::sampler::{Sampler, Settings};
use crate::stop::StopMatcher;

/// The end of the prompt that the text stream sees: the text of the first new token depends on what it
/// follows (SentencePiece drops the space that begins a text), but not on what is further back.
const PRIMING: usize = 32;

/// How to go on from a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How the next token is drawn.
    pub sampling: Settings,
    /// The most tokens to add; EOS counts.
    pub max_tokens: usize,
    /// Texts that end the text and are not part of it.
    pub stop: Vec<String>,
    /// Go on after EOS: for measurements.
    pub ignore_eos: bool,
}

impl From<&GenerationDefaults> for Options {
    fn from(defaults: &GenerationDefaults) -> Self {
        Self {
            sampling: Settings::from(defaults),
            max_tokens: defaults.max_tokens,
            stop: Vec::new(),
            ignore_eos: false,
        }
    }
}

/// Why a text ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model said that it is at the end.
    Eos,
    /// This stop string came.
    StopString(String),
    /// `max_tokens` were added.
    MaxTokens,
    /// Every position of the context is taken.
    ContextFull,
    /// The callback asked for it.
    Cancelled,
}

/// What came of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Output {
    /// The text after the prompt; joined to it as is, it reads on.
    pub text: String,
    /// The ids after the prompt, EOS and those of a stop string included.
    pub ids: Vec<u32>,
    /// Ids of the prompt, BOS included.
    pub prompt_tokens: usize,
    /// Why the text ended.
    pub stop_reason: StopReason,
    /// Time to the logits of the first new token.
    pub prefill_seconds: f64,
    /// Time from there to the end, the callback's included.
    pub decode_seconds: f64,
}

impl Output {
    /// Prompt tokens a second.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        per_second(self.prompt_tokens, self.prefill_seconds)
    }

    /// Tokens a second after the first, whose logits belong to the prefill; 0 if there was no other.
    pub fn decode_tokens_per_second(&self) -> f64 {
        per_second(self.ids.len().saturating_sub(1), self.decode_seconds)
    }
}

fn per_second(tokens: usize, seconds: f64) -> f64 {
    if tokens == 0 || seconds <= 0.0 { 0.0 } else { tokens as f64 / seconds }
}

/// A model and its tokenizer.
#[derive(Debug)]
pub struct Generator<'a> {
    model: &'a Model,
    tokenizer: Tokenizer,
}

impl<'a> Generator<'a> {
    /// Builds the tokenizer that the model's file carries.
    ///
    /// # Errors
    ///
    /// A tokenizer that cannot be read or does not fit the model.
    pub fn new(model: &'a Model) -> Result<Self> {
        Ok(Self { model, tokenizer: model.tokenizer()? })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The ids of a prompt: BOS if the model has one, then the text.
    ///
    /// # Errors
    ///
    /// A text that the tokenizer has no ids for, or nothing at all ([`Error::NoTokens`]).
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.model.metadata().bos.into_iter().collect();
        ids.extend(self.tokenizer.encode(prompt)?);
        if ids.is_empty() { Err(Error::NoTokens) } else { Ok(ids) }
    }

    /// Goes on from a prompt until EOS, a stop string, `max_tokens` or the end of the context, whichever
    /// comes first. The context does not slide: a text that fills it ends, and says so.
    ///
    /// `on_text` receives the text piece by piece: no piece is empty, none splits a character or shows part of a
    /// stop string, and together they are [`Output::text`]. It may ask to end.
    ///
    /// # Errors
    ///
    /// A prompt that [`Self::encode`] refuses or that is longer than the context, a setting that breaks its rule, or
    /// logits that are no numbers.
    pub fn generate(
        &self,
        prompt: &str,
        options: &Options,
        on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Output> {
        self.generate_ids(&self.encode(prompt)?, options, on_text)
    }

    /// [`Self::generate`] from ids, taken as they are.
    ///
    /// # Errors
    ///
    /// As [`Self::generate`].
    pub fn generate_ids(
        &self,
        prompt: &[u32],
        options: &Options,
        on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Output> {
        let start = Instant::now();
        let mut sampler = Sampler::new(options.sampling.clone())?;
        let mut text = Text::new(&self.tokenizer, prompt, options, on_text)?;
        let mut cache = self.model.cache();
        if prompt.is_empty() {
            return Err(Error::NoTokens);
        }
        let mut logits = self.model.logits_last(prompt, &mut cache)?;
        let prefill = start.elapsed();
        sampler.accept(prompt);

        let eos = self.model.metadata().eos.filter(|_| !options.ignore_eos);
        let most = self.model.config().max_position_embeddings;
        let mut ids = Vec::new();
        let mut stop_reason = StopReason::MaxTokens;
        while ids.len() < options.max_tokens {
            let id = sampler.sample(&logits)?;
            ids.push(id);
            if Some(id) == eos {
                stop_reason = StopReason::Eos;
                break;
            }
            if let Some(reason) = text.push(id)? {
                stop_reason = reason;
                break;
            }
            if ids.len() == options.max_tokens {
                break;
            }
            if cache.len() == most {
                stop_reason = StopReason::ContextFull;
                break;
            }
            logits = self.model.logits_last(&[id], &mut cache)?;
        }
        let (text, stop_reason) = text.finish(stop_reason)?;
        let decode = start.elapsed().saturating_sub(prefill);
        Ok(Output {
            text,
            ids,
            prompt_tokens: prompt.len(),
            stop_reason,
            prefill_seconds: seconds(prefill),
            decode_seconds: seconds(decode),
        })
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// Ids to shown text: whole characters, up to a stop string.
struct Text<F> {
    stream: TextStream,
    stop: StopMatcher,
    shown: String,
    on_text: F,
}

impl<F: FnMut(&str) -> ControlFlow<()>> Text<F> {
    fn new(tokenizer: &Tokenizer, prompt: &[u32], options: &Options, on_text: F) -> Result<Self> {
        let mut stream = TextStream::new(tokenizer);
        for &id in &prompt[prompt.len().saturating_sub(PRIMING)..] {
            // An id that the model has and the tokenizer lacks has no text.
            if (id as usize) < tokenizer.vocab_size() {
                stream.push(id)?;
            }
        }
        let stop = StopMatcher::new(&options.stop)?;
        Ok(Self { stream, stop, shown: String::new(), on_text })
    }

    /// Shows what an id adds; returns a reason to end.
    fn push(&mut self, id: u32) -> Result<Option<StopReason>> {
        // A padded vocabulary: the model may draw an id that no text has.
        let piece = match self.stream.push(id) {
            Err(tern_format::Error::TokenId { .. }) => return Ok(None),
            piece => piece?,
        };
        Ok(self.show(&piece))
    }

    fn show(&mut self, piece: &str) -> Option<StopReason> {
        let (shown, stop) = self.stop.push(piece);
        let stop = stop.map(|stop| StopReason::StopString(stop.into()));
        let flow = self.emit(&shown);
        stop.or(flow.is_break().then_some(StopReason::Cancelled))
    }

    fn emit(&mut self, shown: &str) -> ControlFlow<()> {
        self.shown += shown;
        if shown.is_empty() { ControlFlow::Continue(()) } else { (self.on_text)(shown) }
    }

    /// Shows what was held back, unless the text was cut there.
    fn finish(mut self, reason: StopReason) -> Result<(String, StopReason)> {
        if matches!(reason, StopReason::StopString(_) | StopReason::Cancelled) {
            return Ok((self.shown, reason));
        }
        let rest = self.stream.finish()?;
        if let Some(stop @ StopReason::StopString(_)) = self.show(&rest) {
            return Ok((self.shown, stop));
        }
        let rest = self.stop.finish();
        // Nothing follows, so a wish to end has been met.
        let _ = self.emit(&rest);
        Ok((self.shown, reason))
    }
}
