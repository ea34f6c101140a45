//! `tern generate`

use std::io::Read;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tern_format::regular_file::read_small_text;
use tern_infer::generate::{Generator, Options, Output};
use tern_infer::linear::Engine;

use crate::Ending;
use crate::model::{ModelOptions, packed_path};
use crate::sampling;
use crate::stream::Stream;
use crate::terminal::Terminal;

/// The longest prompt that is read, in bytes: more than any context holds.
const MOST_PROMPT_BYTES: u64 = 64 << 20;

/// Write text with a packed model.
///
/// What is not set here is as the file says. The text comes as it is written; Ctrl-C ends it. Of a prompt from a file or from
/// standard input the last newline is left out.
///
/// A prompt begins with the model's BOS where its tokenizer says so and the prompt does not have it already.
///
/// A name of a control token in a prompt, such as <|im_end|>, is that token where the model has a tokenizer.json, so that a chat
/// template can be written out by hand; `tern chat` takes such names for text.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern generate runs/quickstart/model.safetensors
  tern generate runs/quickstart/model.safetensors \"Once upon a time\" --seed 3
  tern generate model.safetensors --temperature 0 --max-tokens 50 --stop \"The end\"
  head -3 story.txt | tern generate model.safetensors - --timings")]
pub(crate) struct Arguments {
    /// The packed model, or the directory of a run that has one.
    file: PathBuf,
    /// The text to go on from; - reads standard input [default: the file's].
    prompt: Option<String>,
    /// Read the text to go on from from this file.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    sampling: sampling::Arguments,
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
    let file = packed_path(&arguments.file)?;
    let model = arguments.model.open(&file, Engine::detect()?, terminal)?;
    let generator = Generator::new(&model).with_context(|| file.display().to_string())?;
    tracing::debug!(file = %file.display(), "opened");
    let defaults = &model.metadata().generation;
    let given = prompt(arguments)?;
    let prompt = given.as_ref().unwrap_or(&defaults.prompt);
    let options = arguments.sampling.options(defaults);

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
    let timings =
        format!("{}; {}", sampling::timings(&output), sampling::ended(&output.stop_reason));
    if arguments.sampling.timings {
        terminal.asked(&timings);
    } else {
        terminal.detail(&timings);
    }
    Ok(Ending::Done)
}

/// The prompt that was given, if any.
fn prompt(arguments: &Arguments) -> Result<Option<String>> {
    let mut text = match (&arguments.prompt_file, arguments.prompt.as_deref()) {
        (Some(path), _) => read_small_text(path, MOST_PROMPT_BYTES)?,
        (None, Some("-")) => {
            let mut bytes = Vec::new();
            let mut limited = std::io::stdin().lock().take(MOST_PROMPT_BYTES + 1);
            limited.read_to_end(&mut bytes).context("standard input")?;
            if bytes.len() as u64 > MOST_PROMPT_BYTES {
                bail!("standard input: must have at most {MOST_PROMPT_BYTES} bytes, has more");
            }
            String::from_utf8(bytes).context("standard input")?
        }
        (None, prompt) => return Ok(prompt.map(Into::into)),
    };
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(Some(text))
}

/// Writes prompt and text to standard output piece by piece, as they come; nothing if prompt or options are refused.
fn stream(generator: &Generator<'_>, prompt: &str, options: &Options) -> Result<Output> {
    let mut out = Stream::new();
    let mut unshown = Some(prompt);
    let output = generator.generate(prompt, options, |piece| {
        if let Some(prompt) = unshown.take() {
            out.write(prompt)?;
        }
        out.write(piece)
    })?;
    // A failure is kept and told by `finish`.
    let _ = out.write(&format!("{}\n", unshown.unwrap_or_default()));
    out.finish()?;
    Ok(output)
}
