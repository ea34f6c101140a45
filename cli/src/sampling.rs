//! The options of drawing tokens, which every command that writes text has.

use tern_format::packed::GenerationDefaults;
use tern_infer::generate::{Options, Output, StopReason};

use crate::terminal::thousands;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The same seed writes the same text.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Most tokens to write [default: the file's].
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// 0 takes the likeliest token, 1 draws as the model says, more is wilder [default: the file's].
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Draw from this many of the likeliest tokens; 0 from all [default: the file's].
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability; 1 from all [default: the file's].
    #[arg(long, value_name = "SHARE")]
    top_p: Option<f32>,
    /// Draw from tokens with at least this share of the likeliest one's probability; 0 from all [default: the
    /// file's].
    #[arg(long, value_name = "SHARE")]
    min_p: Option<f32>,
    /// Above 1, tokens that were there become less likely [default: the file's].
    #[arg(long, value_name = "NUMBER")]
    repetition_penalty: Option<f32>,
    /// Stop before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Say how fast prompt and text were.
    #[arg(long)]
    pub(crate) timings: bool,
}

impl Arguments {
    /// What is set here, and else what the file says.
    pub(crate) fn options(&self, defaults: &GenerationDefaults) -> Options {
        let mut options = Options::from(defaults);
        options.stop.clone_from(&self.stop);
        options.max_tokens = self.max_tokens.unwrap_or(options.max_tokens);
        let sampling = &mut options.sampling;
        sampling.seed = self.seed;
        sampling.temperature = self.temperature.unwrap_or(sampling.temperature);
        sampling.top_k = self.top_k.unwrap_or(sampling.top_k);
        sampling.top_p = self.top_p.unwrap_or(sampling.top_p);
        sampling.min_p = self.min_p.unwrap_or(sampling.min_p);
        sampling.repetition_penalty =
            self.repetition_penalty.unwrap_or(sampling.repetition_penalty);
        options
    }
}

/// How fast prompt and text were, in a line.
pub(crate) fn timings(output: &Output) -> String {
    let speed = |tokens_per_second: f64| match tokens_per_second {
        speed if speed < 100.0 => format!("{speed:.1} tok/s"),
        speed => format!("{} tok/s", thousands(speed.round() as u64)),
    };
    let cached = match output.cached_tokens {
        0 => String::new(),
        cached => format!(", {} cached", thousands(cached as u64)),
    };
    format!(
        "prompt {} tokens{cached}, prefill {}; {} tokens, decode {}",
        thousands(output.prompt_tokens as u64),
        speed(output.prefill_tokens_per_second()),
        thousands(output.ids.len() as u64),
        speed(output.decode_tokens_per_second()),
    )
}

/// Why the text ended.
pub(crate) fn ended(reason: &StopReason) -> String {
    match reason {
        StopReason::Eos => "the model ended the text".into(),
        StopReason::StopString(text) => format!("the stop text {text:?} came"),
        StopReason::MaxTokens => "the most tokens were written".into(),
        StopReason::ContextFull => "the model's context was full".into(),
        StopReason::Cancelled => "it was cancelled".into(),
    }
}
