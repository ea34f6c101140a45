//! `tern generate`

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use tern_format::harmless::{LAYOUT, replaced};
use tern_infer::Model;
use tern_infer::generate::{Generator, Options, Output, StopReason};

use crate::Ending;
use crate::commands::verify::packed_file;
use crate::terminal::{STANDARD_OUTPUT, Terminal, thousands};

/// Write text with a packed model.
///
/// What is not set here is as the file says. The text comes as it is written; Ctrl-C ends it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern generate runs/quickstart/model.safetensors
  tern generate runs/quickstart/model.safetensors \"Once upon a time\" --seed 3
  tern generate model.safetensors --temperature 0 --max-tokens 50 --stop \"The end\"")]
pub(crate) struct Arguments {
    /// The packed model, or the directory of a run that has one.
    file: PathBuf,
    /// The text to go on from [default: the file's].
    prompt: Option<String>,
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
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    prompt: &'a str,
    #[serde(flatten)]
    output: &'a Output,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let file = packed_file(&arguments.file)?;
    let model = Model::open(&file)?;
    let generator = Generator::new(&model).with_context(|| file.display().to_string())?;
    tracing::debug!(file = %file.display(), "opened");
    let defaults = &model.metadata().generation;
    let prompt = arguments.prompt.as_ref().unwrap_or(&defaults.prompt);
    let mut options = Options::from(defaults);
    options.stop.clone_from(&arguments.stop);
    options.max_tokens = arguments.max_tokens.unwrap_or(options.max_tokens);
    let sampling = &mut options.sampling;
    sampling.seed = arguments.seed;
    sampling.temperature = arguments.temperature.unwrap_or(sampling.temperature);
    sampling.top_k = arguments.top_k.unwrap_or(sampling.top_k);
    sampling.top_p = arguments.top_p.unwrap_or(sampling.top_p);
    sampling.min_p = arguments.min_p.unwrap_or(sampling.min_p);
    sampling.repetition_penalty =
        arguments.repetition_penalty.unwrap_or(sampling.repetition_penalty);

    if terminal.json {
        let output = generator.generate(prompt, &options, |_| ControlFlow::Continue(()))?;
        let report = Report {
            prompt,
            prefill_tokens_per_second: output.prefill_tokens_per_second(),
            decode_tokens_per_second: output.decode_tokens_per_second(),
            output: &output,
        };
        terminal.result(&report, "")?;
        return Ok(Ending::Done);
    }
    let output = stream(&generator, prompt, &options)?;
    terminal.detail(&format!(
        "{} tokens, then {}; prompt {} tokens; decode {} tok/s",
        output.ids.len(),
        ended(&output.stop_reason),
        output.prompt_tokens,
        thousands(output.decode_tokens_per_second() as u64)
    ));
    Ok(Ending::Done)
}

/// Why the text ended.
fn ended(reason: &StopReason) -> String {
    match reason {
        StopReason::Eos => "the model ended the text".into(),
        StopReason::StopString(text) => format!("the stop text {text:?} came"),
        StopReason::MaxTokens => "the most tokens were written".into(),
        StopReason::ContextFull => "the model's context was full".into(),
        StopReason::Cancelled => "it was cancelled".into(),
    }
}

/// Writes prompt and text to standard output piece by piece, as they come; nothing if prompt or options are refused.
fn stream(generator: &Generator<'_>, prompt: &str, options: &Options) -> Result<Output> {
    let mut out = std::io::stdout().lock();
    // A model may write any byte; on a terminal some of them are commands.
    let terminal = out.is_terminal();
    let shown = |piece: &str| {
        if terminal { replaced(piece, &LAYOUT) } else { piece.to_owned() }
    };
    let mut unshown = Some(prompt);
    let mut failed = None;
    let output = generator.generate(prompt, options, |piece| {
        let text = unshown.take().unwrap_or_default().to_owned() + &shown(piece);
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error).context(STANDARD_OUTPUT);
    }
    let text = format!("{}\n", unshown.unwrap_or_default());
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context(STANDARD_OUTPUT)?;
    Ok(output)
}
