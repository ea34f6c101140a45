//! A prompt and what the model makes of it.

use std::ops::ControlFlow;
use std::time::Duration;

use serde::Serialize;
use tern_format::packed::{GenerationDefaults, Metadata};
use tern_format::stream::TextStream;
use tern_format::tokenizer::Tokenizer;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::decoder::Model;
use crate::error::{Error, Result};
use crate::sampler::{Sampler, Settings};
use crate::stop::StopMatcher;

/// The end of the prompt that the text stream sees: the text of the first new token depends on what it
/// follows (SentencePiece drops the space that begins a text), but not on what is further back.
const PRIMING: usize = 32;

/// Tokens of a prompt that are read at once: many enough for every thread, few enough that a wish to end is soon met.
pub const PREFILL: usize = 256;

/// Tokens that may be next, by id, with their logits.
type Candidates = Vec<(u32, f32)>;

/// How to go on from a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How the next token is drawn.
    pub sampling: Settings,
    /// The most tokens to add; EOS counts.
    pub max_tokens: usize,
    /// Texts that end the text and are not part of it.
    pub stop: Vec<String>,
    /// Ids that end the text as EOS does.
    pub stop_ids: Vec<u32>,
    /// Go on after EOS and its like: for measurements.
    pub ignore_eos: bool,
}

impl From<&GenerationDefaults> for Options {
    fn from(defaults: &GenerationDefaults) -> Self {
        Self {
            sampling: Settings::from(defaults),
            max_tokens: defaults.max_tokens,
            stop: Vec::new(),
            stop_ids: Vec::new(),
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
    /// The callback asked for it, or `cancelled` said so.
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
    /// How many of these the context held already.
    pub cached_tokens: usize,
    /// Why the text ended.
    pub stop_reason: StopReason,
    /// Time to the logits of the first new token.
    pub prefill_seconds: f64,
    /// Time from there to the end, the callback's included.
    pub decode_seconds: f64,
}

impl Output {
    /// Prompt tokens a second, of those that were read.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        per_second(self.prompt_tokens - self.cached_tokens, self.prefill_seconds)
    }

    /// Tokens a second after the first, whose logits belong to the prefill; 0 if there was no other.
    pub fn decode_tokens_per_second(&self) -> f64 {
        per_second(self.ids.len().saturating_sub(1), self.decode_seconds)
    }
}

fn per_second(tokens: usize, seconds: f64) -> f64 {
    if tokens == 0 || seconds <= 0.0 { 0.0 } else { tokens as f64 / seconds }
}

/// Tokens that a model has read, to be gone on from.
#[derive(Clone, Debug)]
pub struct Context {
    cache: Cache,
    /// Those in the cache.
    ids: Vec<u32>,
}

impl Context {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.keep(0);
    }

    /// Forgets all but the first tokens.
    fn keep(&mut self, tokens: usize) {
        self.cache.truncate(tokens);
        self.ids.truncate(tokens);
    }
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

    /// The ids of a prompt: BOS if the tokenizer adds one and the text does not begin with it, then the text; BOS alone for
    /// no text. A name of a control token in it is that token, if the
    /// tokenizer is a `tokenizer.json`: a prompt may be a template that was filled by hand.
    ///
    /// # Errors
    ///
    /// A text that the tokenizer has no ids for, or nothing at all ([`Error::NoTokens`]).
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        let Metadata { bos, add_bos, .. } = *self.model.metadata();
        let mut ids = self.tokenizer.encode(prompt)?;
        if let Some(bos) = bos
            && (add_bos || ids.is_empty())
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
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
        self.generate_in(&mut self.context(), prompt, options, &|| false, on_text)
    }

    /// A context that holds nothing.
    pub fn context(&self) -> Context {
        Context { cache: self.model.cache(), ids: Vec::new() }
    }

    /// [`Self::generate_ids`] in a context that may hold the beginning of the prompt: only what differs is read. The
    /// text is the same, to the bit. Afterwards the context holds the prompt and the text.
    ///
    /// `cancelled` is asked between tokens, and within a long prompt every [`PREFILL`] of them.
    ///
    /// # Errors
    ///
    /// As [`Self::generate`]; the context then holds what was read.
    ///
    /// # Panics
    ///
    /// If the context was made for a model of another shape.
    pub fn generate_in(
        &self,
        context: &mut Context,
        prompt: &[u32],
        options: &Options,
        cancelled: &dyn Fn() -> bool,
        on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Output> {
        let clock = Clock::start();
        let mut sampler = Sampler::new(options.sampling.clone())?;
        let mut text = Text::new(&self.tokenizer, prompt, options, on_text)?;
        self.check(prompt)?;
        sampler.accept(prompt);
        let shared = context.ids.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last is read again: what follows it is not kept.
        let cached_tokens = shared.min(prompt.len() - 1);
        context.keep(cached_tokens);
        let candidates = self.read(context, &prompt[cached_tokens..], &sampler, cancelled)?;
        let prefill = clock.elapsed();

        let mut ids = Vec::new();
        let stop_reason = match candidates {
            Some(candidates) => self.decode(
                context,
                candidates,
                &mut sampler,
                options,
                cancelled,
                &mut text,
                &mut ids,
            )?,
            None => StopReason::Cancelled,
        };
        let (text, stop_reason) = text.finish(stop_reason)?;
        let decode = clock.elapsed().saturating_sub(prefill);
        Ok(Output {
            text,
            ids,
            prompt_tokens: prompt.len(),
            cached_tokens,
            stop_reason,
            prefill_seconds: seconds(prefill),
            decode_seconds: seconds(decode),
        })
    }

    /// Checks a prompt as a whole, as its parts are read one by one.
    fn check(&self, prompt: &[u32]) -> Result<()> {
        self.model.check_ids(prompt)?;
        let most = self.model.config().max_position_embeddings;
        match prompt.len() {
            0 => Err(Error::NoTokens),
            tokens if tokens > most => Err(Error::Context { tokens, most }),
            _ => Ok(()),
        }
    }

    /// Reads tokens; returns the candidates for the next, or none where it was cancelled.
    fn read(
        &self,
        context: &mut Context,
        ids: &[u32],
        sampler: &Sampler,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<Candidates>> {
        let mut candidates = Vec::new();
        for (part, ids) in ids.chunks(PREFILL).enumerate() {
            if part > 0 && cancelled() {
                return Ok(None);
            }
            candidates = self.model.candidates(ids, &mut context.cache, sampler.wanted())?;
            context.ids.extend(ids);
        }
        Ok(Some(candidates))
    }

    /// Draws token after token.
    #[allow(clippy::too_many_arguments, reason = "one loop with one caller")]
    fn decode<F: FnMut(&str) -> ControlFlow<()>>(
        &self,
        context: &mut Context,
        mut candidates: Candidates,
        sampler: &mut Sampler,
        options: &Options,
        cancelled: &dyn Fn() -> bool,
        text: &mut Text<F>,
        ids: &mut Vec<u32>,
    ) -> Result<StopReason> {
        let eos = self.model.metadata().eos;
        let most = self.model.config().max_position_embeddings;
        while ids.len() < options.max_tokens {
            if cancelled() {
                return Ok(StopReason::Cancelled);
            }
            let id = sampler.sample_among(candidates)?;
            ids.push(id);
            let ends = Some(id) == eos || options.stop_ids.contains(&id);
            if ends && !options.ignore_eos {
                return Ok(StopReason::Eos);
            }
            if let Some(reason) = text.push(id)? {
                return Ok(reason);
            }
            if ids.len() == options.max_tokens {
                break;
            }
            if context.ids.len() == most {
                return Ok(StopReason::ContextFull);
            }
            candidates = self.model.candidates(&[id], &mut context.cache, sampler.wanted())?;
            context.ids.push(id);
        }
        Ok(StopReason::MaxTokens)
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tern_format::config::{Architecture, ModelConfig};
    use tern_format::packed::{PackedModel, Tensor};

    use super::*;
    use crate::reference::{BOS, EOS, config, packed};

    /// A model that goes round a cycle: after each of these bytes comes the next. Its blocks add nothing,
    /// the embedding of a token is a direction of its own, and the head looks for the one before.
    fn cycle(text: &[u32]) -> PackedModel {
        let config = ModelConfig {
            hidden_size: 64,
            max_position_embeddings: 64,
            tie_word_embeddings: false,
            ..config(Architecture::Llama)
        };
        let mut packed = packed(&config, 1);
        let hidden = config.hidden_size;
        for (name, tensor) in &mut packed.tensors {
            let Tensor::Float(float) = tensor else { continue };
            let norm = name.contains("norm");
            let mut values = vec![if norm { 1.0 } else { 0.0 }; float.count()];
            for (i, &id) in text.iter().enumerate() {
                let row = id as usize * hidden;
                match name.as_str() {
                    "model.embed_tokens.weight" => values[row + i] = 1.0,
                    "lm_head.weight" => {
                        values[row + (i + text.len() - 1) % text.len()] = 1.0;
                    }
                    _ => {}
                }
            }
            float.bytes = float.dtype.encode(&values).into();
        }
        packed
    }

    fn bytes(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    fn greedy(max_tokens: usize) -> Options {
        Options {
            sampling: Settings::greedy(),
            max_tokens,
            ..Options::from(&GenerationDefaults::default())
        }
    }

    /// Runs a cycle from its first token; returns what came and the pieces shown.
    fn run(cycle_of: &[u32], options: &Options) -> (Output, Vec<String>) {
        let model = Model::load(cycle(cycle_of)).unwrap();
        let mut pieces = Vec::new();
        let generator = Generator::new(&model).unwrap();
        let output = generator
            .generate_ids(&cycle_of[..1], options, |piece| {
                pieces.push(piece.to_owned());
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(pieces.concat(), output.text);
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        (output, pieces)
    }

    #[test]
    fn pieces_are_whole_characters() {
        let (output, pieces) = run(&bytes("aé漢🙂"), &greedy(10));
        assert_eq!(pieces, ["é", "漢", "🙂", "a"]);
        assert_eq!((output.stop_reason, output.ids.len()), (StopReason::MaxTokens, 10));
        // Cut inside a character: what came of it is shown at the end, as a replacement.
        let (output, _) = run(&bytes("aé漢"), &greedy(3));
        assert_eq!(output.text, "é\u{fffd}");
    }

    #[test]
    fn eos_ends_and_is_not_shown() {
        let mut text = bytes("abc");
        text.push(EOS);
        let (output, _) = run(&text, &greedy(20));
        assert_eq!((output.text.as_str(), output.stop_reason), ("bc", StopReason::Eos));
        assert_eq!(output.ids.last(), Some(&EOS));
        let (output, _) = run(&text, &Options { ignore_eos: true, ..greedy(6) });
        assert_eq!((output.text.as_str(), output.stop_reason), ("bcabc", StopReason::MaxTokens));
    }

    #[test]
    fn a_stop_string_across_tokens_is_never_shown() {
        let options = Options { stop: vec!["é!".into(), "?z".into()], ..greedy(40) };
        let (output, pieces) = run(&bytes("xa?bé!"), &options);
        assert_eq!(output.text, "a?b");
        assert_eq!(output.stop_reason, StopReason::StopString("é!".into()));
        assert_eq!(pieces.concat(), "a?b");
        // Not reached: what was held back is shown at the end.
        let (output, _) = run(&bytes("xa?bé!"), &Options { max_tokens: 5, ..options });
        assert_eq!(output.text, "a?bé");
        let (output, _) = run(&bytes("ab"), &Options { stop: vec!["bax".into()], ..greedy(4) });
        assert_eq!((output.text.as_str(), output.stop_reason), ("baba", StopReason::MaxTokens));
    }

    #[test]
    fn a_full_context_ends_the_text() {
        // 64 positions: the prompt's one and 63 more are read, and the last read gives one more.
        let (output, _) = run(&bytes("ab"), &greedy(1000));
        assert_eq!((output.ids.len(), output.stop_reason), (64, StopReason::ContextFull));
        let model = Model::load(cycle(&bytes("ab"))).unwrap();
        let generator = Generator::new(&model).unwrap();
        let error = generator.generate(&"a".repeat(64), &greedy(1), |_| ControlFlow::Continue(()));
        assert!(matches!(error, Err(Error::Context { tokens: 65, most: 64 })));
    }

    #[test]
    fn a_prompt_has_bos_and_the_callback_can_end_it() {
        let model = Model::load(cycle(&bytes("ab"))).unwrap();
        let generator = Generator::new(&model).unwrap();
        assert_eq!(generator.encode("ab").unwrap(), [BOS, 97, 98]);
        let output = generator.generate("ab", &greedy(9), |_| ControlFlow::Break(())).unwrap();
        assert_eq!((output.prompt_tokens, output.ids.len()), (3, 1));
        assert_eq!((output.text.as_str(), output.stop_reason), ("a", StopReason::Cancelled));
        let output = generator.generate("ab", &greedy(0), |_| ControlFlow::Break(())).unwrap();
        assert_eq!((output.ids.len(), output.stop_reason), (0, StopReason::MaxTokens));
    }

    #[test]
    fn a_context_saves_reading_and_changes_no_token() {
        let config = ModelConfig { max_position_embeddings: 1_000, ..config(Architecture::Bitlm) };
        let model = Model::load(packed(&config, 2)).unwrap();
        let generator = Generator::new(&model).unwrap();
        let mut context = generator.context();
        let options = Options { ignore_eos: true, ..greedy(20) };
        let mut run = |prompt: &[u32]| {
            let go_on = |_: &str| ControlFlow::Continue(());
            let kept =
                generator.generate_in(&mut context, prompt, &options, &|| false, go_on).unwrap();
            let anew = generator.generate_ids(prompt, &options, go_on).unwrap();
            assert_eq!((&kept.ids, &kept.text), (&anew.ids, &anew.text));
            assert_eq!(anew.cached_tokens, 0);
            (kept.cached_tokens, kept.ids)
        };
        let prompt: Vec<u32> = (0..600).map(|i| i * i % 256).collect();
        let (cached, answer) = run(&prompt);
        assert_eq!(cached, 0);
        // The last token of an answer is not read before something follows it.
        let longer = [&prompt[..], &answer, &[7, 8, 9]].concat();
        assert_eq!(run(&longer).0, 619);
        // The same again reads one token; another beginning reads it all; a common part is kept.
        assert_eq!(run(&longer).0, 622);
        assert_eq!(run(&[&prompt[..300], &[1, 1]].concat()).0, 300);
        assert_eq!(run(&prompt[1..]).0, 0);
        context.clear();
        assert!(context.cache.is_empty());
    }

    #[test]
    fn it_can_be_cancelled_while_it_reads_and_between_tokens() {
        let config = ModelConfig { max_position_embeddings: 1_000, ..config(Architecture::Bitlm) };
        let model = Model::load(packed(&config, 2)).unwrap();
        let generator = Generator::new(&model).unwrap();
        let run = |after: usize| {
            let asked = std::cell::Cell::new(0);
            let cancelled = || asked.replace(asked.get() + 1) >= after;
            let mut context = generator.context();
            let options = Options { ignore_eos: true, ..greedy(20) };
            let prompt = [65; 600];
            let go_on = |_: &str| ControlFlow::Continue(());
            let output =
                generator.generate_in(&mut context, &prompt, &options, &cancelled, go_on).unwrap();
            assert_eq!(output.stop_reason, StopReason::Cancelled);
            assert_eq!(context.cache.len(), context.ids.len());
            (context.ids.len(), output.ids.len())
        };
        assert_eq!(run(0), (256, 0));
        assert_eq!(run(1), (512, 0));
        assert_eq!(run(2), (600, 0));
        assert_eq!(run(7), (605, 5));
    }

    #[test]
    fn a_prompt_begins_with_bos_once_and_where_the_tokenizer_adds_it() {
        let mut packed = cycle(&bytes("ab"));
        let encode = |packed: &PackedModel, prompt: &str| {
            let model = Model::load(packed.clone()).unwrap();
            Generator::new(&model).unwrap().encode(prompt).unwrap()
        };
        assert_eq!(encode(&packed, "ab"), [BOS, 97, 98]);
        packed.metadata.bos = Some(97);
        assert_eq!(encode(&packed, "ab"), [97, 98]);
        packed.metadata.bos = Some(BOS);
        packed.metadata.add_bos = false;
        assert_eq!(encode(&packed, "ab"), [97, 98]);
        assert_eq!(encode(&packed, ""), [BOS]);
    }

    #[test]
    fn nothing_to_go_on_from_is_an_error() {
        let mut packed = cycle(&bytes("ab"));
        packed.metadata.bos = None;
        let model = Model::load(packed).unwrap();
        let generator = Generator::new(&model).unwrap();
        let run = |ids: &[u32]| generator.generate_ids(ids, &greedy(1), |_| ControlFlow::Break(()));
        assert!(matches!(generator.encode(""), Err(Error::NoTokens)));
        assert!(matches!(run(&[]), Err(Error::NoTokens)));
        assert!(matches!(run(&[1, 999]), Err(Error::TokenId { position: 1, id: 999, .. })));
    }

    #[test]
    fn a_seed_is_a_text() {
        let model = Model::load(packed(&config(Architecture::Bitlm), 2)).unwrap();
        let generator = Generator::new(&model).unwrap();
        let text = |seed| {
            let sampling = Settings { seed, ..Settings::default() };
            let options = Options { sampling, ..greedy(40) };
            generator.generate("go", &options, |_| ControlFlow::Continue(())).unwrap().ids
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }

    #[test]
    fn a_tokenizer_too_large_for_the_model_is_refused() {
        let config = ModelConfig { vocab_size: 257, ..config(Architecture::Bitlm) };
        let mut packed = packed(&config, 2);
        (packed.metadata.bos, packed.metadata.eos) = (None, None);
        let model = Model::load(packed).unwrap();
        let error = Generator::new(&model).unwrap_err().to_string();
        assert!(error.contains("257") && error.contains("258"), "{error}");
    }
}
