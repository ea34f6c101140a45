//! `tern data`: text to tokens, and what came of it.

#[cfg(feature = "train")]
mod fetch;
#[cfg(feature = "train")]
mod meter;
#[cfg(feature = "train")]
pub(crate) mod prepare;

use std::path::{Path, PathBuf};

use anyhow::Result;
use tern_datasets::prepare::Prepared;
use tern_datasets::stats::{SideStats, SourceStats, Stats, stats};

use crate::Ending;
use crate::terminal::{Terminal, thousands};

/// `tern data …`
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    #[cfg(feature = "train")]
    Prepare(prepare::Arguments),
    #[cfg(feature = "train")]
    Fetch(fetch::Arguments),
    Stats(StatsArguments),
}

/// Count what is in prepared data: documents, tokens, lengths, the most frequent tokens.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern data stats runs/quickstart")]
pub(crate) struct StatsArguments {
    /// Directory that `tern data prepare` wrote, or that of a run.
    data: PathBuf,
}

pub(crate) fn run(command: &Command, terminal: &Terminal) -> Result<Ending> {
    match command {
        #[cfg(feature = "train")]
        Command::Prepare(arguments) => prepare::run(arguments, terminal)?,
        #[cfg(feature = "train")]
        Command::Fetch(arguments) => fetch::run(arguments, terminal)?,
        Command::Stats(arguments) => {
            let stats = stats(&Prepared::open(&data_of(&arguments.data))?);
            terminal.result(&stats, &table(&stats))?;
        }
    }
    Ok(Ending::Done)
}

/// The prepared data of a run directory, or the directory itself.
fn data_of(directory: &Path) -> PathBuf {
    let inner = directory.join("data");
    #[cfg(feature = "train")]
    let inner = if inner.exists() {
        inner
    } else {
        crate::history::find_data(&tern_train::directory::RunDirectory::new(directory))
    };
    let is_run = !directory.join("data.json").exists() && inner.join("data.json").exists();
    if is_run { inner } else { directory.to_owned() }
}

fn table(stats: &Stats) -> String {
    let tables: Vec<String> =
        stats.sources.iter().map(|source| source_table(source, stats.vocab_size)).collect();
    tables.join("\n")
}

fn source_table(source: &SourceStats, vocab_size: usize) -> String {
    let mut text = format!("{:<24}{:>16}{:>16}\n", source.name, "train", "valid");
    let mut row = |name: &str, value: &dyn Fn(&SideStats) -> String| {
        text.push_str(&format!(
            "{name:<24}{:>16}{:>16}\n",
            value(&source.train),
            value(&source.valid)
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
    text.push_str(&format!("\nvocabulary {}; the most frequent tokens of train:\n", vocab_size));
    for token in &source.train.top {
        text.push_str(&format!(
            "  {:>7.3} %  {:>6}  {:?}\n",
            100.0 * token.share,
            token.id,
            token.token
        ));
    }
    text
}
