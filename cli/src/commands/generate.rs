//! `tern generate`

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use tern_infer::Model;
use tern_infer::generate::{Generator, Options, Output};

use crate::Ending;
use crate::terminal::{Terminal, thousands};

/// Write text with a packed model.
///
/// What is not set here is as the file says. The text comes as it is written; Ctrl-C ends it.
///
/// Example: tern generate runs/quickstart/model.safetensors "Once upon a time" --seed 3
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// The packed model.
    file: PathBuf,
    /// The text to go on from [default: the file's].
    prompt: Option<String>,
    /// The same seed writes the same text.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Most tokens to write.
    #[arg(long)]
    max_tokens: Option<usize>,
    /// 0 takes the likeliest token, 1 draws as the model says, more is wilder.
    #[arg(long, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Draw from this many of the likeliest tokens; 0 from all.
    #[arg(long)]
    top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability; 1 from all.
    #[arg(long)]
    top_p: Option<f32>,
    /// Draw from tokens with at least this share of the likeliest one's probability; 0 from all.
    #[arg(long)]
    min_p: Option<f32>,
    /// Above 1, tokens that were there become less likely.
    #[arg(long)]
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
    let model = Model::open(&arguments.file)?;
    let generator = Generator::new(&model)?;
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
        "{} tokens, {:?}; prompt {} tokens; decode {} tok/s",
        output.ids.len(),
        output.stop_reason,
        output.prompt_tokens,
        thousands(output.decode_tokens_per_second() as u64)
    ));
    Ok(Ending::Done)
}

/// Writes prompt and text to standard output piece by piece, as they come.
fn stream(generator: &Generator<'_>, prompt: &str, options: &Options) -> Result<Output> {
    let mut out = std::io::stdout().lock();
    out.write_all(prompt.as_bytes())?;
    out.flush()?;
    // A model may write any byte; on a terminal some of them are commands.
    let terminal = out.is_terminal();
    let shown = |piece: &str| {
        let harmless =
            |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
        if terminal { piece.chars().map(harmless).collect() } else { piece.to_owned() }
    };
    let mut failed = None;
    let output = generator.generate(prompt, options, |piece| {
        match out.write_all(shown(piece).as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(output)
}
