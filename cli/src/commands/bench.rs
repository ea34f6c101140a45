//! `tern bench`

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use tern_infer::bench::{Report, Settings, measure};
use tern_infer::linear::Engine;
use tern_kernels::pool::Pool;

use crate::Ending;
use crate::model::{ModelOptions, packed_path};
use crate::terminal::{Terminal, bytes};

/// Measure how fast a packed model runs on this CPU.
///
/// Decoding makes one token after the other, from an empty cache; prefill reads a prompt at once. Each is done several
/// times, and the median counts. Decoding reads every weight for each token, so the table says what share of the memory's
/// bandwidth, measured here by the same threads, that is: above 100 % where the weights stay in a cache.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern bench runs/quickstart
  tern bench model.safetensors --threads 1 --prompt-tokens 128
  TERN_KERNEL=avx2 tern --json bench model.safetensors")]
pub(crate) struct Arguments {
    /// The packed model, or the directory of a run that has one.
    file: PathBuf,
    #[command(flatten)]
    model: ModelOptions,
    /// Threads; TERN_THREADS sets them for every command [default: all that this process may use].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Tokens of the prompt, as many as the context has room for.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// Tokens to decode, as many as the context has room for.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    decode_tokens: u32,
    /// How often each is done.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let file = packed_path(&arguments.file)?;
    let mut engine = Engine::detect()?;
    if let Some(threads) = arguments.threads {
        engine.pool = Arc::new(Pool::new(threads.into()));
    }
    let model = arguments.model.open(&file, engine, terminal)?;
    let most = model.config().max_position_embeddings;
    ensure!(most > 1, "{}: a context of one token leaves nothing to measure", file.display());
    let settings = Settings {
        prompt_tokens: (arguments.prompt_tokens as usize).min(most),
        decode_tokens: (arguments.decode_tokens as usize).min(most - 1),
        repetitions: arguments.repetitions as usize,
    };
    let report = measure(&model, &settings, &mut |repetition| {
        terminal.detail(&format!("measuring, {} of {}", repetition + 1, settings.repetitions));
    })?;
    terminal.result(&report, &table(&report))?;
    Ok(Ending::Done)
}

fn table(report: &Report) -> String {
    let threads =
        if report.threads == 1 { "1 thread" } else { &format!("{} threads", report.threads) };
    format!(
        "decode     {:>10.1} tokens/s   {:.3} ms a token, {} tokens\n\
         prefill    {:>10.1} tokens/s   {} tokens at once\n\
         weights    {:>10} a token    {:.0} % of the {}/s that memory gives\n\
         with       {threads}, kernel {}, median of {}\n",
        report.decode_tokens_per_second,
        report.milliseconds_per_token,
        report.decode_tokens,
        report.prefill_tokens_per_second,
        report.prompt_tokens,
        bytes(report.bytes_per_token),
        100.0 * report.memory_bandwidth_fraction,
        bytes(report.memory_bytes_per_second as u64),
        report.kernel,
        report.repetitions,
    )
}
