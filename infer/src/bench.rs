//! How fast a model runs here.

use std::time::Instant;

use serde::Serialize;
use tern_kernels::bandwidth;

use crate::decoder::Model;
use crate::error::{Error, Result};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Tokens of the prompt that prefill reads at once.
    pub prompt_tokens: usize,
    /// Tokens that decode makes one after the other, from an empty cache.
    pub decode_tokens: usize,
    /// How often each is done; the median counts.
    pub repetitions: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { prompt_tokens: 512, decode_tokens: 128, repetitions: 5 }
    }
}

/// Speeds, each the median of the repetitions.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Tokens a second, one after the other.
    pub decode_tokens_per_second: f64,
    /// Milliseconds from one token to the next.
    pub milliseconds_per_token: f64,
    /// Tokens a second of a prompt.
    pub prefill_tokens_per_second: f64,
    /// Bytes of weights that a token reads.
    pub bytes_per_token: u64,
    /// Bytes a second that decoding reads, as a share of what the memory gives. More than 1 where the weights stay in a cache.
    pub memory_bandwidth_fraction: f64,
    /// Bytes a second that the same threads read from memory, doing nothing else.
    pub memory_bytes_per_second: f64,
    /// Threads.
    pub threads: usize,
    /// The kernel of the products.
    pub kernel: &'static str,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that were decoded.
    pub decode_tokens: usize,
    /// How often each was done.
    pub repetitions: usize,
    /// Every measurement of decoding, tokens a second.
    pub decode_all: Vec<f64>,
    /// Every measurement of prefill, tokens a second.
    pub prefill_all: Vec<f64>,
}

/// Measures a model with ids that are no text: the arithmetic is the same. `on_progress` hears of each repetition.
///
/// # Errors
///
/// [`Error::Context`] if the context has no room for the tokens.
pub fn measure(
    model: &Model,
    settings: &Settings,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Report> {
    let Settings { prompt_tokens, decode_tokens, repetitions } = *settings;
    let (tokens, most) =
        (prompt_tokens.max(decode_tokens + 1), model.config().max_position_embeddings);
    if tokens > most {
        return Err(Error::Context { tokens, most });
    }
    let vocab_size = model.config().vocab_size as u32;
    // A fixed sequence without a period that a cache could like.
    let prompt: Vec<u32> =
        (0..tokens as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab_size).collect();
    let memory_bytes_per_second = bandwidth::measure(&model.engine().pool);
    let (mut decode_all, mut prefill_all) = (Vec::new(), Vec::new());
    for repetition in 0..repetitions.max(1) {
        on_progress(repetition);
        let mut cache = model.cache();
        let start = Instant::now();
        model.candidates(&prompt[..prompt_tokens], &mut cache, Some(1))?;
        prefill_all.push(prompt_tokens as f64 / start.elapsed().as_secs_f64());

        let mut cache = model.cache();
        model.candidates(&prompt[..1], &mut cache, Some(1))?;
        cache.truncate(0);
        let start = Instant::now();
        let mut id = prompt[0];
        for _ in 0..decode_tokens {
            let candidates = model.candidates(&[id], &mut cache, Some(1))?;
            let most = candidates.iter().max_by(|a, b| a.1.total_cmp(&b.1));
            id = most.map_or(prompt[0], |&(id, _)| id);
        }
        decode_all.push(decode_tokens as f64 / start.elapsed().as_secs_f64());
    }
    let decode_tokens_per_second = median(&decode_all);
    let bytes_per_token = model.bytes_per_token();
    Ok(Report {
        decode_tokens_per_second,
        milliseconds_per_token: 1e3 / decode_tokens_per_second,
        prefill_tokens_per_second: median(&prefill_all),
        bytes_per_token,
        memory_bandwidth_fraction: decode_tokens_per_second * bytes_per_token as f64
            / memory_bytes_per_second,
        memory_bytes_per_second,
        threads: model.engine().pool.threads(),
        kernel: model.kernel().name(),
        prompt_tokens,
        decode_tokens,
        repetitions: repetitions.max(1),
        decode_all,
        prefill_all,
    })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        (sorted[half - 1] + sorted[half]) / 2.0
    } else {
        sorted[half]
    }
}
