//! A checkpoint of a run as a packed model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use tern_datasets::prepare::Prepared;
use tern_format::packed::{Encoding, PackedModel};
use tern_train::checkpoint::{self, Checkpoint, State};
use tern_train::directory::RunDirectory;

use super::Arguments;
use crate::commands::train::Session;
use crate::history::find_data;
use crate::overwrite;
use crate::terminal::{Terminal, bytes};

#[derive(Serialize)]
pub(crate) struct Exported {
    pub(crate) path: PathBuf,
    pub(crate) step: u64,
    pub(crate) val_loss: Option<f64>,
    pub(crate) check_loss: Option<f64>,
    pub(crate) size_bytes: u64,
}

/// Whether a path is that of a run.
pub(crate) fn is_run(path: &Path) -> bool {
    RunDirectory::new(path).has_run()
}

/// Projects the checkpoint that the arguments name and writes the packed model.
pub(crate) fn pack(arguments: &Arguments, terminal: &Terminal) -> Result<Exported> {
    let path = arguments.out.clone().unwrap_or_else(|| RunDirectory::new(&arguments.model).model());
    overwrite::only_a_packed_model(&path)?;
    let (session, checkpoint) = open(arguments, terminal)?;
    export(&session, checkpoint, path, arguments.encoding.unwrap_or(Encoding::T2))
}

/// Projects the checkpoint that the arguments name. Returns the model, and where its packed model would lie.
pub(crate) fn project(
    arguments: &Arguments,
    terminal: &Terminal,
) -> Result<(PackedModel, PathBuf)> {
    let (session, checkpoint) = open(arguments, terminal)?;
    Ok((projected(&session, checkpoint)?.0, session.directory.model()))
}

/// The run and the checkpoint that the arguments name.
fn open(arguments: &Arguments, terminal: &Terminal) -> Result<(Session, Checkpoint)> {
    let directory = RunDirectory::new(&arguments.model);
    let config = directory
        .read_config()
        .with_context(|| {
            format!(
                "{}: not the directory of a run; of a packed model --to gguf or --to hf makes a file for other programs, and \
                 `tern import --encoding` packs it anew",
                arguments.model.display()
            )
        })?;
    let data = Prepared::open(&arguments.data.clone().unwrap_or_else(|| find_data(&directory)))?;
    let session =
        Session { config, directory, data, device: "cpu".into(), stop_at: None, resume: true };
    let which = arguments.checkpoint.as_deref().unwrap_or("best");
    let checkpoint = choose(&session.directory, which, terminal)?;
    Ok((session, checkpoint))
}

/// Projects a checkpoint and writes the packed model to `path`.
pub(crate) fn export(
    session: &Session,
    checkpoint: Checkpoint,
    path: PathBuf,
    encoding: Encoding,
) -> Result<Exported> {
    let (packed, state) = projected(session, checkpoint)?;
    let packed = packed.encode_as(encoding)?;
    packed.write(&path)?;
    tracing::debug!(step = state.step, file = %path.display(), "exported");
    Ok(Exported {
        step: state.step,
        val_loss: state.val_loss,
        check_loss: packed.metadata.check.map(|check| check.loss),
        size_bytes: std::fs::metadata(&path).map_or(0, |metadata| metadata.len()),
        path,
    })
}

fn projected(session: &Session, checkpoint: Checkpoint) -> Result<(PackedModel, State)> {
    let device = tern_model::device::find(&session.device)?.autodiff();
    let (model, _, state) =
        checkpoint.restore(&session.config, &session.data.summary.sha256, &device)?;
    let validation = session.validation()?;
    Ok((session.project(&model, Some(&state), Some(&validation))?, state))
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
        bytes(exported.size_bytes)
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
