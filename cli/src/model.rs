//! The model that a command runs.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use tern_format::gguf::Gguf;
use tern_format::packed::PackedModel;
use tern_format::pytorch;
use tern_format::safetensors::Contents;
use tern_infer::Model;
use tern_infer::linear::Engine;
use tern_infer::loss::mean_loss;
use tern_kernels::mapped_file::MappedFile;

use crate::terminal::Terminal;

/// The file itself, or that of a run directory. What holds a model of another kind is refused, with the command that makes
/// a packed model of it.
pub(crate) fn packed_path(path: &Path) -> Result<PathBuf> {
    let of_run = path.join("model.safetensors");
    let is_run = path.join("config.toml").exists();
    if !path.is_dir() {
        refuse_other_kinds(path)?;
        return Ok(path.into());
    }
    if !is_run && path.join("config.json").exists() && !is_packed(&of_run) {
        bail!("{}: a directory of transformers; {}", path.display(), import(path));
    }
    if of_run.exists() {
        refuse_other_kinds(&of_run)?;
        return Ok(of_run);
    }
    let run = path.display();
    if is_run {
        bail!("{run}: there is no model.safetensors here; `tern export {run}` makes it");
    }
    bail!(
        "{run}: there is no model.safetensors here; name a packed model, or the directory of a run that has one"
    )
}

/// The run that a path is a checkpoint of: `RUN/checkpoints/step-…`, or a file in that.
pub(crate) fn run_of_checkpoint(path: &Path) -> Option<&Path> {
    path.ancestors().take(2).find_map(|step| {
        let checkpoints = step.parent()?;
        let named = step.file_name()?.to_str()?.starts_with("step-");
        (named && checkpoints.file_name()? == "checkpoints").then_some(checkpoints.parent()?)
    })
}

/// What makes a packed model of another program's file or directory.
fn import(path: &Path) -> String {
    format!("`tern import {} --out NAME.safetensors` makes a packed model of it", path.display())
}

fn is_packed(file: &Path) -> bool {
    MappedFile::open(file)
        .is_ok_and(|map| Contents::parse(&map).is_ok_and(|it| PackedModel::recognize(&it)))
}

/// Refuses a file that another command makes a packed model of. What cannot be read is left to the reader to refuse.
fn refuse_other_kinds(file: &Path) -> Result<()> {
    let Ok(map) = MappedFile::open(file) else { return Ok(()) };
    let name = file.display();
    if Gguf::recognize(&map) {
        bail!("{name}: a GGUF file; {}", import(file));
    }
    if pytorch::recognize(&map) {
        bail!("{name}: a PyTorch file; {}, with --tokenizer FILE", import(file));
    }
    if Contents::parse(&map).map_or(true, |contents| PackedModel::recognize(&contents)) {
        return Ok(());
    }
    if let Some(run) = run_of_checkpoint(file) {
        bail!(
            "{name}: this is a checkpoint, which holds latent weights: `tern export {}` makes the packed model",
            run.display()
        );
    }
    match file.parent().filter(|directory| directory.join("config.json").exists()) {
        Some(directory) => bail!("{name}: weights of transformers; {}", import(directory)),
        None => bail!(
            "{name}: a safetensors file, but no packed model: it has no configuration; name the directory with its config.json"
        ),
    }
}

/// Options of the commands that run a model.
#[derive(clap::Args)]
pub(crate) struct ModelOptions {
    /// Quantize what the ternary layers of a weight-only model read to eight bits: faster, and the loss on the file's check
    /// tokens is measured and said.
    #[arg(long)]
    int8_activations: bool,
}

impl ModelOptions {
    /// Opens a packed file.
    pub(crate) fn open(&self, file: &Path, engine: Engine, terminal: &Terminal) -> Result<Model> {
        if !self.int8_activations {
            return Ok(Model::open_with(file, engine)?);
        }
        let Some(model) = Model::open_with_int8_activations(file, engine.clone())? else {
            bail!(
                "{}: --int8-activations is for ternary models whose activations are floats; this is none",
                file.display()
            );
        };
        match &model.metadata().check {
            None => terminal.warn(
                "eight-bit activations change the loss, and the file has no check tokens to measure by how much",
            ),
            Some(check) => {
                let before = mean_loss(&Model::open_with(file, engine)?, &check.windows)?;
                let after = mean_loss(&model, &check.windows)?;
                terminal.say(&format!(
                    "eight-bit activations: loss {after:.4} nats/token on the check tokens, {before:.4} without ({:+.4})",
                    after - before
                ));
            }
        }
        Ok(model)
    }
}
