//! `tern export`

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use tern_format::packed::{Encoding, PackedModel};
use tern_train::checkpoint::{self, Checkpoint};
use tern_train::directory::RunDirectory;

use crate::Ending;
use crate::commands::train::Session;
use crate::history::find_data;
use crate::overwrite;
use crate::terminal::{Terminal, bytes};
use tern_datasets::prepare::Prepared;

/// Project a checkpoint to trits and write the packed model.
///
/// The file holds everything that inference needs: configuration, trits and scales, tokenizer, generation defaults,
/// where it comes from, and up to 4,096 token ids of the validation text, which anybody can read in it, with the trainer's
/// loss on them, which `tern verify` computes again.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern export runs/quickstart
  tern export runs/quickstart --checkpoint last --out story.safetensors
  tern export runs/quickstart --encoding t5 --out archive.safetensors")]
pub(crate) struct Arguments {
    /// Directory of the run.
    run: PathBuf,
    /// `best` by validation loss, `last`, or the number of a step.
    #[arg(long, value_name = "WHICH", default_value = "best")]
    checkpoint: String,
    /// The file to write [default: RUN/model.safetensors]. Nothing but a packed model is overwritten.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Directory with the run's prepared tokens [default: where the run had them].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How to pack trits: t2 (2 bits each), t5 (1.6), or, where of each four at most two are not zero, s24 (1.33) and, where
    /// they are never all zero either, s24n (1.25).
    #[arg(long, default_value = "t2", value_parser = crate::encoding::parser())]
    encoding: Encoding,
}

#[derive(Serialize)]
pub(crate) struct Exported {
    pub(crate) path: PathBuf,
    pub(crate) step: u64,
    pub(crate) val_loss: Option<f64>,
    pub(crate) check_loss: Option<f64>,
    pub(crate) bytes: u64,
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let directory = RunDirectory::new(&arguments.run);
    let config = directory
        .read_config()
        .with_context(|| format!("{}: not the directory of a run", arguments.run.display()))?;
    let path = arguments.out.clone().unwrap_or_else(|| directory.model());
    overwrite::only_a_packed_model(&path)?;
    let data = Prepared::open(&arguments.data.clone().unwrap_or_else(|| find_data(&directory)))?;
    let session =
        Session { config, directory, data, device: "cpu".into(), stop_at: None, resume: true };
    let checkpoint = choose(&session.directory, &arguments.checkpoint, terminal)?;
    let exported = export(&session, checkpoint, path, arguments.encoding)?;
    terminal.result(&exported, &describe(&exported))?;
    terminal.say(&format!("next: tern verify {}", exported.path.display()));
    Ok(Ending::Done)
}

/// Projects a checkpoint and writes the packed model to `path`.
pub(crate) fn export(
    session: &Session,
    checkpoint: Checkpoint,
    path: PathBuf,
    encoding: Encoding,
) -> Result<Exported> {
    let device = tern_model::device::find(&session.device)?.autodiff();
    let (model, _, state) =
        checkpoint.restore(&session.config, &session.data.summary.sha256, &device)?;
    let validation = session.validation()?;
    let packed: PackedModel = session.project(&model, Some(&state), Some(&validation))?;
    let packed = packed.encode_as(encoding)?;
    packed.write(&path)?;
    tracing::debug!(step = state.step, file = %path.display(), "exported");
    Ok(Exported {
        step: state.step,
        val_loss: state.val_loss,
        check_loss: packed.metadata.check.map(|check| check.loss),
        bytes: std::fs::metadata(&path).map_or(0, |metadata| metadata.len()),
        path,
    })
}

/// A line for people.
pub(crate) fn describe(exported: &Exported) -> String {
    let val_loss = exported
        .val_loss
        .map_or_else(String::new, |loss| format!(", validation loss {loss:.4} nats/token"));
    format!(
        "step {}{val_loss}: {} ({})\n",
        exported.step,
        exported.path.display(),
        bytes(exported.bytes)
    )
}

/// The checkpoint that a word names.
fn choose(directory: &RunDirectory, word: &str, terminal: &Terminal) -> Result<Checkpoint> {
    let checkpoints = directory.checkpoints();
    let mut skipped = |error: &tern_train::Error| terminal.warn(&error.to_string());
    Ok(match word {
        "best" => checkpoint::best(&checkpoints, &mut skipped)?,
        "last" => checkpoint::latest(&checkpoints, &mut skipped)?,
        word => {
            let all: Vec<u64> =
                checkpoint::list(&checkpoints)?.into_iter().map(|(step, _)| step).collect();
            let known = match &all[..] {
                [] => format!("{} holds none yet", checkpoints.display()),
                all => format!(
                    "there are {}",
                    all.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
                ),
            };
            let Ok(step) = word.parse() else {
                anyhow::bail!("--checkpoint takes best, last or a step ({known}), found `{word}`")
            };
            anyhow::ensure!(all.contains(&step), "there is no checkpoint of step {step}: {known}");
            checkpoint::read(&checkpoint::directory(&checkpoints, step))?
        }
    })
}
