//! Checkpoints: latent weights, optimizer state and the position of the run, written whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use tern_format::atomic::{remove_temporaries, sync_directory, without_temporary_name};
use tern_format::checksum::sha256_file;
use tern_format::error::printable;
use tern_format::regular_file::read_small_text;
use tern_format::safetensors::{read_f32, write_f32};
use tern_model::Decoder;
use tern_model::parameters::{HostTensor, export, import};

use crate::config::{RunConfig, TrainConfig};
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::optimizer::Optimizer;

/// Version of the layout below.
const FORMAT_VERSION: u32 = 2;
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
/// The largest `state.json` that is read; one has about a kilobyte.
const MOST_STATE_BYTES: u64 = 1 << 20;

/// Where a run stands, beside its tensors. Batches are a pure function of (seed, step), so the step is their position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Version of the layout of a checkpoint.
    pub format_version: u32,
    /// Optimizer steps taken.
    pub step: u64,
    /// Tokens learned from.
    pub tokens: u64,
    /// Seed of weights and batches.
    pub seed: u64,
    /// SHA-256 of the resolved configuration.
    pub config_sha256: String,
    /// Identity of the data: SHA-256 over their settings and sources.
    pub data_identity: String,
    /// Validation loss of these weights, nats per token, where it was measured and finite.
    pub val_loss: Option<f64>,
    /// The lowest validation loss so far and its step.
    pub best: Option<Best>,
    /// Steps skipped, and the running mean of the loss.
    pub guard: Guard,
    /// SHA-256 of the tensor files, by name.
    pub files: BTreeMap<String, String>,
}

/// The best validation so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// After which step.
    pub step: u64,
    /// Nats per token.
    pub val_loss: f64,
}

/// A checkpoint whose files are whole.
pub struct Checkpoint {
    /// Its directory.
    pub path: PathBuf,
    /// Where the run stood.
    pub state: State,
    model: BTreeMap<String, HostTensor>,
    optimizer: BTreeMap<String, HostTensor>,
}

/// The directory of the checkpoint after `step` steps.
pub fn directory(checkpoints: &Path, step: u64) -> PathBuf {
    checkpoints.join(format!("step-{step:08}"))
}

/// Every checkpoint directory with its step, oldest first. Temporary directories do not count.
///
/// # Errors
///
/// If the directory exists but cannot be listed.
pub fn list(checkpoints: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(checkpoints) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(checkpoints))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(checkpoints))?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse().ok());
        if let Some(step) = step {
            all.push((step, entry.path()));
        }
    }
    all.sort();
    Ok(all)
}

/// Writes a checkpoint to a temporary directory, syncs it, and renames it into place.
///
/// A checkpoint of the same step is replaced. `state.files` is filled in here.
///
/// # Errors
///
/// [`Error::NonFiniteWeights`], or the file that could not be written; what was there before stays.
pub fn save(
    checkpoints: &Path,
    model: &Decoder,
    optimizer: &Optimizer,
    state: &mut State,
) -> Result<PathBuf> {
    let target = directory(checkpoints, state.step);
    let weights = export(model);
    if let Some((name, _)) = weights.iter().find(|(_, (_, v))| !v.iter().all(|v| v.is_finite())) {
        return Err(Error::NonFiniteWeights { name: name.clone() });
    }
    let temporary = tempfile::Builder::new()
        .prefix(".step-")
        .tempdir_in(checkpoints)
        .map_err(|error| Error::io(checkpoints)(without_temporary_name(error)))?;
    let written = fill(temporary.path(), weights, optimizer, state);
    written.map_err(|error| error.under(temporary.path(), &target))?;
    sync_directory(temporary.path());
    // The rename of a directory cannot replace a full one, so the old one of the same step steps aside first.
    let aside = checkpoints.join(format!(".old-step-{:08}", state.step));
    let replaces = target.exists();
    if replaces {
        remove_if_there(&aside)?;
        fs::rename(&target, &aside).map_err(Error::io(&target))?;
    }
    if let Err(error) = fs::rename(temporary.path(), &target) {
        if replaces {
            fs::rename(&aside, &target).map_err(Error::io(&target))?;
        }
        return Err(Error::io(&target)(error));
    }
    // It has another name now, so there is nothing to clean up.
    let _ = temporary.keep();
    remove_if_there(&aside)?;
    sync_directory(checkpoints);
    tracing::debug!(step = state.step, directory = %target.display(), "saved a checkpoint");
    Ok(target)
}

/// Writes the files of a checkpoint.
fn fill(
    directory: &Path,
    weights: BTreeMap<String, HostTensor>,
    optimizer: &Optimizer,
    state: &mut State,
) -> Result<()> {
    let tensors: [(&str, Vec<(String, HostTensor)>); 2] =
        [(MODEL, weights.into_iter().collect()), (OPTIMIZER, optimizer.state())];
    state.files.clear();
    for (name, tensors) in tensors {
        let path = directory.join(name);
        let tensors: Vec<_> =
            tensors.into_iter().map(|(name, (shape, values))| (name, shape, values)).collect();
        write_f32(&path, &tensors, &BTreeMap::new())?;
        state.files.insert(name.into(), sha256_file(&path)?.0);
    }
    let path = directory.join(STATE);
    let mut text = serde_json::to_string_pretty(state)
        .map_err(|e| Error::Checkpoint { path: path.clone(), rule: e.to_string() })?;
    text.push('\n');
    tern_format::atomic::write_atomically(&path, |out| out.write_all(text.as_bytes()))?;
    Ok(())
}

/// Removes all but the best checkpoint and the `keep` latest up to `step`, where the run stands.
///
/// Later ones were damaged, or the run would have gone on from them; it replaces them when it comes there.
/// A checkpoint off the schedule (left by an interruption or an earlier best) counts only while it is the latest, so
/// that a resumed run ends with the checkpoints of one that was never stopped.
///
/// # Errors
///
/// Names the directory that could not be removed.
pub fn prune(checkpoints: &Path, config: &TrainConfig, step: u64, best: Option<u64>) -> Result<()> {
    let mut all = list(checkpoints)?;
    all.retain(|(other, _)| *other <= step);
    let latest = all.last().map(|(step, _)| *step);
    let kept: Vec<u64> = all
        .iter()
        .rev()
        .map(|(step, _)| *step)
        .filter(|step| step.is_multiple_of(config.checkpoint_every) || Some(*step) == latest)
        .take(config.keep_checkpoints)
        .chain(best)
        .collect();
    for (step, path) in &all {
        if !kept.contains(step) {
            fs::remove_dir_all(path).map_err(Error::io(path))?;
        }
    }
    Ok(())
}

/// Removes the temporary directories that a killed process left among the checkpoints.
///
/// # Errors
///
/// Names the directory that could not be removed.
pub fn sweep(checkpoints: &Path) -> Result<()> {
    for entry in fs::read_dir(checkpoints).map_err(Error::io(checkpoints))? {
        let entry = entry.map_err(Error::io(checkpoints))?;
        let name = entry.file_name();
        let left = |prefix: &str| name.to_str().is_some_and(|name| name.starts_with(prefix));
        if left(".step-") || left(".old-step-") {
            remove_if_there(&entry.path())?;
        }
    }
    remove_temporaries(checkpoints).map_err(Error::io(checkpoints))
}

/// Removes the checkpoints of some steps.
///
/// # Errors
///
/// Names the directory that could not be removed.
pub fn remove(checkpoints: &Path, steps: RangeInclusive<u64>) -> Result<()> {
    let all = list(checkpoints)?.into_iter();
    all.filter(|(step, _)| steps.contains(step)).try_for_each(|(_, path)| remove_if_there(&path))
}

/// Reads the state of one checkpoint, without its tensors.
///
/// # Errors
///
/// Names the file and what is wrong with it.
pub fn read_state(path: &Path) -> Result<State> {
    let file = path.join(STATE);
    let text = read_small_text(&file, MOST_STATE_BYTES)?;
    let damaged = |rule: String| Error::Checkpoint { path: file.clone(), rule };
    let state = State::parse(&text).map_err(damaged)?;
    if path != directory(path.parent().unwrap_or(Path::new("")), state.step) {
        let rule = format!("step is {}, which is not that of the directory's name", state.step);
        return Err(damaged(rule));
    }
    Ok(state)
}

/// Checks the checksums of one checkpoint, without reading its tensors.
///
/// # Errors
///
/// Names the file and what is wrong with it.
pub fn check(path: &Path) -> Result<State> {
    let damaged = |file: &Path, rule: String| Error::Checkpoint { path: file.into(), rule };
    let state = read_state(path)?;
    for name in [MODEL, OPTIMIZER] {
        let file = path.join(name);
        let expected = state
            .files
            .get(name)
            .ok_or_else(|| damaged(&path.join(STATE), format!("lists no checksum of {name}")))?;
        let found = sha256_file(&file)?.0;
        if found != *expected {
            let rule = format!("checksum differs: sha256 is {found}, {STATE} says {expected}");
            return Err(damaged(&file, rule));
        }
    }
    Ok(state)
}

/// Reads one checkpoint and checks its checksums.
///
/// # Errors
///
/// Names the file and what is wrong with it.
pub fn read(path: &Path) -> Result<Checkpoint> {
    let state = check(path)?;
    let [model, optimizer] = [MODEL, OPTIMIZER].map(|name| read_f32(&path.join(name)));
    let (model, optimizer) = (model?.0, optimizer?.0);
    tracing::debug!(step = state.step, directory = %path.display(), "read a checkpoint");
    Ok(Checkpoint { path: path.into(), state, model, optimizer })
}

/// The latest checkpoint that is whole; `skipped` is told of each that is not.
///
/// # Errors
///
/// [`Error::NoCheckpoint`] where none is.
pub fn latest(checkpoints: &Path, skipped: &mut dyn FnMut(&Error)) -> Result<Checkpoint> {
    let all = list(checkpoints)?;
    let mut detail = String::new();
    for (_, path) in all.iter().rev() {
        match read(path) {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(error) => {
                skipped(&error);
                detail = format!(": none of the {} there is whole; {error}", all.len());
            }
        }
    }
    Err(Error::NoCheckpoint { path: checkpoints.into(), detail })
}

/// The checkpoint with the lowest validation loss among those that are whole, else the latest.
///
/// # Errors
///
/// As [`latest`].
pub fn best(checkpoints: &Path, skipped: &mut dyn FnMut(&Error)) -> Result<Checkpoint> {
    let latest = latest(checkpoints, skipped)?;
    match latest.state.best {
        Some(best) if best.step != latest.state.step => {
            match read(&directory(checkpoints, best.step)) {
                Ok(checkpoint) => Ok(checkpoint),
                Err(error) => {
                    skipped(&error);
                    Ok(latest)
                }
            }
        }
        _ => Ok(latest),
    }
}

impl State {
    /// Reads the text of a `state.json`.
    ///
    /// # Errors
    ///
    /// The rule that it breaks and the value found.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let state: Self =
            serde_json::from_str(text).map_err(|error| printable(&error.to_string(), 300))?;
        match state.format_version {
            FORMAT_VERSION => Ok(state),
            found => Err(format!("format_version is {found}, this program reads {FORMAT_VERSION}")),
        }
    }

    /// The state of a run before its first step.
    pub fn new(config: &RunConfig, data_identity: String) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            step: 0,
            tokens: 0,
            seed: config.seed,
            config_sha256: config.hash(),
            data_identity,
            val_loss: None,
            best: None,
            guard: Guard::default(),
            files: BTreeMap::new(),
        }
    }

    /// The state before the row of skipped steps that the run is in. The weights are the same since, and so is what was
    /// validated of them.
    pub(crate) fn before_skipped(mut self) -> Self {
        self.step = self.step.saturating_sub(self.guard.forget_skipped());
        if let Some(best) = &mut self.best {
            best.step = best.step.min(self.step);
        }
        self
    }
}

impl Checkpoint {
    /// The model and optimizer as they were.
    ///
    /// # Errors
    ///
    /// If optimizer, configuration or data are not those of the run, or a tensor does not fit the configuration.
    pub fn restore(
        self,
        config: &RunConfig,
        data_identity: &str,
        device: &Device,
    ) -> Result<(Decoder, Optimizer, State)> {
        let Self { path, state, model, optimizer } = self;
        if let Err(rule) = config.train.optimizer.check(optimizer.keys()) {
            return Err(Error::Checkpoint { path: path.join(OPTIMIZER), rule });
        }
        if state.config_sha256 != config.hash() {
            let rule = "was written under another configuration than config.toml".into();
            return Err(Error::Checkpoint { path, rule });
        }
        let (steps, learned) = (config.train.steps, state.step.saturating_sub(state.guard.skipped));
        if state.step > steps {
            let rule = format!("step is {}, beyond train.steps ({steps})", state.step);
            return Err(Error::Checkpoint { path: path.join(STATE), rule });
        }
        let tokens = learned.saturating_mul(config.tokens_per_step());
        if state.tokens != tokens {
            let rule =
                format!("tokens is {}, must be {tokens} after step {}", state.tokens, state.step);
            return Err(Error::Checkpoint { path: path.join(STATE), rule });
        }
        if state.seed != config.seed {
            let rule = format!("seed is {}, must be {}", state.seed, config.seed);
            return Err(Error::Checkpoint { path: path.join(STATE), rule });
        }
        if state.data_identity != data_identity {
            let rule = format!(
                "was trained on other data (identity {}) than those there are now ({data_identity})",
                state.data_identity
            );
            return Err(Error::Checkpoint { path, rule });
        }
        let model = import(config.decoder(device), model)
            .map_err(|source| Error::Weights { path: path.join(MODEL), source })?;
        let inner = device.clone().inner();
        let optimizer =
            Optimizer::resume(config.train.optimizer.clone(), learned, optimizer, &inner);
        Ok((model, optimizer, state))
    }
}

fn remove_if_there(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(directory)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_state_before_skipped_steps_keeps_what_is_known_of_its_weights() {
        let before = |best: u64| {
            let text = serde_json::json!({
                "format_version": FORMAT_VERSION, "step": 9, "tokens": 60, "seed": 1,
                "config_sha256": "", "data_identity": "", "val_loss": 2.5,
                "best": {"step": best, "val_loss": 2.5}, "files": {},
                "guard": {"skipped": 4, "skipped_in_row": 3, "count": 5, "mean": 3.0, "variance": 0.1},
            });
            State::parse(&text.to_string()).unwrap().before_skipped()
        };
        let state = before(8);
        assert_eq!((state.step, state.guard.skipped, state.guard.skipped_in_row), (6, 1, 0));
        assert_eq!((state.best.unwrap().step, state.val_loss), (6, Some(2.5)));
        assert_eq!(before(4).best.unwrap().step, 4);
    }
}
