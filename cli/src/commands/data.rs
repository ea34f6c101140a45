//! `tern data`: text to tokens, and what came of it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tern_datasets::config::DataConfig;
use tern_datasets::prepare::{Prepared, Progress, Side, Stage, prepare};
use tern_datasets::stats::{SideStats, Stats, stats};

use crate::Ending;
use crate::console::{Console, bytes, thousands};

/// `tern data …`
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    #[cfg(feature = "train")]
    Prepare(PrepareArguments),
    Stats(StatsArguments),
}

/// Turn the text that a configuration names into token files.
///
/// `tern train` does this by itself; prepared data can serve several runs through its --data.
///
/// Example: tern data prepare configs/quickstart.toml --out runs/stories
#[cfg(feature = "train")]
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct PrepareArguments {
    /// The TOML file of a run; its [data] table counts.
    config: PathBuf,
    /// Keys to override, for example data.tokenizer.vocab_size=1024.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Directory to write [default: runs/NAME-OF-THE-CONFIG/data].
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Count what is in prepared data: documents, tokens, lengths, the most frequent tokens.
///
/// Example: tern data stats runs/quickstart/data
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct StatsArguments {
    /// Directory that `tern data prepare` or `tern train` wrote.
    data: PathBuf,
}

pub(crate) fn run(command: &Command, console: &Console) -> Result<Ending> {
    match command {
        #[cfg(feature = "train")]
        Command::Prepare(arguments) => {
            use super::train::{default_directory, parent};
            let config =
                tern_train::config::RunConfig::read(&arguments.config, &arguments.overrides)?;
            let default = default_directory(&arguments.config).data();
            let out = arguments.out.clone().unwrap_or(default);
            let prepared = prepare_data(&config.data, parent(&arguments.config), &out, console)?;
            console.result(&prepared.summary, "")?;
        }
        Command::Stats(arguments) => {
            let stats = stats(&Prepared::open(&arguments.data)?)?;
            console.result(&stats, &table(&stats))?;
        }
    }
    Ok(Ending::Done)
}

/// Prepares data with a progress line, or opens what is there already, and says what they are.
pub(crate) fn prepare_data(
    config: &DataConfig,
    base: &Path,
    out: &Path,
    console: &Console,
) -> Result<Prepared> {
    let bar = console.bar(0, "{bar:24.green} {msg}");
    let prepared = prepare(config, base, out, &mut |progress: Progress| {
        bar.set_length(progress.total_bytes.unwrap_or(0));
        bar.set_position(progress.bytes);
        let stage = match progress.stage {
            Stage::Check => "reading the text",
            Stage::Tokenizer => "training the tokenizer",
            Stage::Encode => "encoding",
        };
        bar.set_message(format!(
            "{stage}: {} documents, {}",
            thousands(progress.documents),
            bytes(progress.bytes)
        ));
    });
    bar.finish_and_clear();
    let prepared = prepared?;
    let Side { documents, tokens, characters, .. } = prepared.summary.train;
    console.say(&format!(
        "{} {}: {} documents, {} tokens of {:.2} characters, vocabulary {}; {} tokens to validate on",
        if prepared.reused { "using" } else { "prepared" },
        out.display(),
        thousands(documents),
        thousands(tokens),
        characters as f64 / tokens.max(1) as f64,
        thousands(prepared.summary.vocab_size as u64),
        thousands(prepared.summary.valid.tokens),
    ));
    Ok(prepared)
}

fn table(stats: &Stats) -> String {
    let mut text = format!("{:<24}{:>16}{:>16}\n", "", "train", "valid");
    let mut row = |name: &str, value: &dyn Fn(&SideStats) -> String| {
        text.push_str(&format!(
            "{name:<24}{:>16}{:>16}\n",
            value(&stats.train),
            value(&stats.valid)
        ));
    };
    row("documents", &|s| thousands(s.size.documents));
    row("tokens", &|s| thousands(s.size.tokens));
    row("bytes of text", &|s| thousands(s.size.text_bytes));
    row("characters per token", &|s| format!("{:.3}", s.characters_per_token));
    row("bytes per token", &|s| format!("{:.3}", s.bytes_per_token));
    row("unknown tokens", &|s| format!("{:.4} %", 100.0 * s.unknown_share));
    row("ids never used", &|s| thousands(s.unused_ids as u64));
    row("entropy, nats/token", &|s| format!("{:.3}", s.unigram_entropy));
    row("document, mean tokens", &|s| format!("{:.1}", s.document_tokens.mean));
    row("document, longest", &|s| thousands(s.document_tokens.max as u64));
    text.push_str(&format!(
        "\nvocabulary {}; the most frequent tokens of train:\n",
        stats.vocab_size
    ));
    for token in &stats.train.top {
        text.push_str(&format!(
            "  {:>7.3} %  {:>6}  {:?}\n",
            100.0 * token.share,
            token.id,
            token.token
        ));
    }
    text
}
