//! `tern data prepare`

use std::path::{Path, PathBuf};

use anyhow::Result;
use tern_datasets::config::DataConfig;
use tern_datasets::hub::Hub;
use tern_datasets::prepare::{Other, Prepared, Side, prepare};
use tern_train::checkpoint;
use tern_train::config::RunConfig;
use tern_train::directory::RunDirectory;

use super::meter::Meter;
use crate::commands::train::{default_directory, interruptions, parent};
use crate::terminal::{Terminal, thousands};

/// Turn the text that a configuration names into token files.
///
/// `tern train` does this by itself; prepared data can serve several runs through its --data. Interrupted, or killed,
/// the same command goes on where it stood.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern data prepare configs/quickstart.toml --out runs/stories")]
pub(crate) struct Arguments {
    /// The TOML file of a run; its `data` table counts.
    config: PathBuf,
    /// Keys to override, for example data.tokenizer.vocab_size=1024.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Directory to write [default: runs/NAME-OF-THE-CONFIG/data].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Take files of the Hugging Face hub from its cache alone.
    #[arg(long)]
    offline: bool,
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<()> {
    let config = RunConfig::read(&arguments.config, &arguments.overrides)?;
    let default = default_directory(&arguments.config).data();
    let out = arguments.out.clone().unwrap_or(default);
    let hub = Hub::from_env().with_offline(arguments.offline);
    interruptions()?;
    let prepared = prepare_from(&hub, &config.data, parent(&arguments.config), &out, terminal)?;
    terminal.result(&prepared.summary, "")
}

/// Prepares data with a progress line, or opens what is there already, and says what they are.
pub(crate) fn prepare_data(
    config: &DataConfig,
    base: &Path,
    out: &Path,
    terminal: &Terminal,
) -> Result<Prepared> {
    prepare_from(&Hub::from_env(), config, base, out, terminal)
}

fn prepare_from(
    hub: &Hub,
    config: &DataConfig,
    base: &Path,
    out: &Path,
    terminal: &Terminal,
) -> Result<Prepared> {
    let mut meter = Meter::new(terminal);
    let run = RunDirectory::new(out.parent().unwrap_or(Path::new("")));
    let trained = run.data() == out && !checkpoint::list(&run.checkpoints())?.is_empty();
    let other = if trained { Other::Keep } else { Other::Replace };
    let prepared = prepare(config, base, out, hub, other, &mut |progress| meter.show(progress));
    meter.finish();
    let prepared = prepared?;
    let of =
        |role: &'static str| prepared.summary.inputs.iter().filter(move |input| input.role == role);
    for valid in of("valid") {
        if let Some(train) = of("train").find(|train| train.sha256 == valid.sha256) {
            terminal.warn(&format!(
                "{} validates on text that is trained on: it has the bytes of {}; the validation loss will tell nothing",
                valid.name, train.name
            ));
        }
    }
    let Side { documents, tokens, characters, .. } = prepared.summary.train();
    terminal.say(&format!(
        "{} {}: {} documents, {} tokens of {:.2} characters, vocabulary {}; {} tokens to validate on",
        if prepared.reused { "using" } else { "prepared" },
        out.display(),
        thousands(documents),
        thousands(tokens),
        characters as f64 / tokens.max(1) as f64,
        thousands(prepared.summary.vocab_size as u64),
        thousands(prepared.summary.valid().tokens),
    ));
    Ok(prepared)
}
