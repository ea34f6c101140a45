//! Where a run keeps what it writes.

use std::path::{Path, PathBuf};

use tern_format::atomic::write_atomically;
use tern_format::lock::Lock;

use crate::checkpoint;
use crate::config::RunConfig;
use crate::error::{Error, Result};

/// The directory of one run.
///
/// ```text
/// OUT/config.toml              the resolved configuration
/// OUT/data/                    tokenizer and token files, unless --data names another place
/// OUT/checkpoints/step-…/      latent weights, optimizer state, state.json
/// OUT/metrics.jsonl            a line a step, the same bytes however often the run was stopped
/// OUT/events.jsonl             a line for each skipped step, spike or warning, as repeatable
/// OUT/weights.jsonl            a line for step 1 and each validation: zeros and scales of every ternary matrix, as repeatable
/// OUT/timings.jsonl            a line a step, what depends on the machine
/// OUT/sessions.jsonl           a line for each process that worked on the run: program, device, time, place of the data
/// OUT/samples.jsonl            text written during training
/// OUT/model.safetensors        the packed model
/// OUT/lock                     held while a process trains here
/// ```
#[derive(Clone, Debug)]
pub struct RunDirectory(PathBuf);

impl RunDirectory {
    /// A directory that need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// Tokenizer and token files.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// All checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    /// What a resumed run repeats.
    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics.jsonl")
    }

    /// Skipped steps, spikes and warnings.
    pub fn events(&self) -> PathBuf {
        self.0.join("events.jsonl")
    }

    /// Zeros and scales over the run.
    pub fn weights(&self) -> PathBuf {
        self.0.join("weights.jsonl")
    }

    /// What depends on the machine.
    pub fn timings(&self) -> PathBuf {
        self.0.join("timings.jsonl")
    }

    /// The processes that worked on the run.
    pub fn sessions(&self) -> PathBuf {
        self.0.join("sessions.jsonl")
    }

    /// Text written during training.
    pub fn samples(&self) -> PathBuf {
        self.0.join("samples.jsonl")
    }

    /// The packed model.
    pub fn model(&self) -> PathBuf {
        self.0.join("model.safetensors")
    }

    /// Takes the directory for this process until the lock is dropped or the process ends, however it ends.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if another process has it, and whatever stops the directory from being made.
    pub fn lock(&self) -> Result<Lock> {
        std::fs::create_dir_all(&self.0).map_err(Error::io(&self.0))?;
        let lock = Lock::take(&self.0.join("lock"))?;
        lock.ok_or_else(|| Error::Locked { path: self.0.clone() })
    }

    /// Whether a run has begun here: a configuration is saved, and a step was taken or a checkpoint written. What was
    /// stopped before that holds nothing that could be lost.
    pub fn has_run(&self) -> bool {
        let lines = std::fs::metadata(self.metrics()).is_ok_and(|metadata| metadata.len() > 0);
        let saved = || !checkpoint::list(&self.checkpoints()).is_ok_and(|all| all.is_empty());
        self.config().exists() && (lines || saved())
    }

    /// The configuration that the run here was started with.
    ///
    /// # Errors
    ///
    /// If there is none or it does not parse.
    pub fn read_config(&self) -> Result<RunConfig> {
        RunConfig::read(&self.config(), &[])
    }

    /// Checks, without writing anything, that a run of this configuration may begin here, or go on.
    ///
    /// # Errors
    ///
    /// [`Error::RunExists`] without `resume`, [`Error::OtherConfig`] with it.
    pub fn check(&self, config: &RunConfig, resume: bool) -> Result<()> {
        if !self.has_run() {
            return Ok(());
        }
        let saved = self.read_config();
        if !resume {
            let differences = match &saved {
                Ok(saved) if saved != config => {
                    format!(" with other settings: {}", saved.differences(config))
                }
                _ => String::new(),
            };
            return Err(Error::RunExists { path: self.0.clone(), differences });
        }
        let saved = saved?;
        if saved == *config {
            return Ok(());
        }
        let differences = saved.differences(config);
        Err(Error::OtherConfig { path: self.config(), differences })
    }

    /// Makes the directory and saves the configuration in it; a run begins to exist with it.
    ///
    /// # Errors
    ///
    /// As [`RunDirectory::check`], and whatever stops a file from being written.
    pub fn open(&self, config: &RunConfig, resume: bool) -> Result<()> {
        self.check(config, resume)?;
        std::fs::create_dir_all(self.checkpoints()).map_err(Error::io(self.checkpoints()))?;
        if !self.has_run() {
            let text = config.to_toml();
            write_atomically(&self.config(), |out| out.write_all(text.as_bytes()))?;
        }
        Ok(())
    }
}
