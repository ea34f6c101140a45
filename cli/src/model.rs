//! The model that a command runs.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use tern_infer::Model;
use tern_infer::linear::Engine;
use tern_infer::loss::mean_loss;

use crate::terminal::Terminal;

/// The file itself, or that of a run directory.
pub(crate) fn packed_path(path: &Path) -> Result<PathBuf> {
    let of_run = path.join("model.safetensors");
    if !path.is_dir() {
        return Ok(path.into());
    }
    if of_run.exists() {
        return Ok(of_run);
    }
    let run = path.display();
    if path.join("config.toml").exists() {
        bail!("{run}: there is no model.safetensors here; `tern export {run}` makes it");
    }
    bail!(
        "{run}: there is no model.safetensors here; name a packed model, or the directory of a run that has one"
    )
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
