//! Everything that can stop a run.

use std::path::{Path, PathBuf};

use crate::written::Place;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong, where, and the rule that it breaks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text of a configuration is not one.
    #[error("{}: {message}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Place, rule and the nearest known key.
        message: String,
    },
    /// A key has a value that breaks a rule.
    #[error("{key} {rule}")]
    Key {
        /// The dotted key.
        key: String,
        /// The rule and the value found.
        rule: String,
    },
    /// A value is not of the type that its key has.
    #[error("{message}")]
    Value {
        /// The type asked for and the value found.
        message: String,
    },
    /// A setting is wrong, and this is where it was set.
    #[error("{place}: {source}")]
    Setting {
        /// A line of the file, or an override.
        place: Place,
        /// The rule and the value found.
        source: Box<Error>,
    },
    /// An override on the command line is not `key=value`.
    #[error("override `{text}` is not of the form key=value, for example train.steps=500")]
    Override {
        /// The argument.
        text: String,
    },
    /// A model file or tokenizer is wrong.
    #[error(transparent)]
    Format(#[from] tern_format::Error),
    /// The data are wrong.
    #[error(transparent)]
    Datasets(#[from] tern_datasets::Error),
    /// Weights do not fit the model.
    #[error("{}: {source}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// The tensor and the rule.
        source: tern_model::parameters::WeightsError,
    },
    /// A checkpoint is damaged.
    #[error("{}: {rule}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// The rule and the value found.
        rule: String,
    },
    /// A directory holds no checkpoint that can be read.
    #[error("{}: no checkpoint to go on from{detail}", path.display())]
    NoCheckpoint {
        /// The directory.
        path: PathBuf,
        /// What was found instead.
        detail: String,
    },
    /// A run exists where a new one should begin.
    #[error("{}: holds a run already{differences}; add --resume to go on with it, or choose another --out", path.display())]
    RunExists {
        /// The directory.
        path: PathBuf,
        /// ` with other settings: …`, or nothing.
        differences: String,
    },
    /// A run is resumed under another configuration.
    #[error(
        "{}: the run was started with other settings: {differences}; to go on with it as it was started, give --resume \
         and --out alone, or the same KEY=VALUE words again; other settings are another run, with another --out",
        path.display()
    )]
    OtherConfig {
        /// The saved configuration.
        path: PathBuf,
        /// Keys that differ, with both values.
        differences: String,
    },
    /// Another process trains in the directory.
    #[error("{}: another process is training here; wait for it, stop it, or choose another --out", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The processes of one run do not have the same.
    #[error(
        "rank {rank} has other {what} than rank 0; all ranks must run the same program on the same files, on CPUs or GPUs \
         that compute alike; what is on the disk is the last checkpoint that they agreed on"
    )]
    RanksDiffer {
        /// The first of those that differ.
        rank: usize,
        /// What they do not have in common.
        what: &'static str,
    },
    /// Loss or gradient were not finite too many times in a row.
    #[error(
        "{skipped} steps in a row up to step {step} were skipped, because loss or gradient were not finite (last: {what} {value}); \
         {} holds the last good state, after step {good}; begin a new run with a lower \
         train.optimizer.learning_rate or a smaller train.clip_norm",
        checkpoint.display()
    )]
    Diverged {
        /// The last step that was tried.
        step: u64,
        /// Steps skipped in a row.
        skipped: u64,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// Its last value.
        value: f64,
        /// The step of the last good state.
        good: u64,
        /// Where that state is.
        checkpoint: PathBuf,
    },
    /// A parameter is no number, so it must not be saved.
    #[error("parameter {name} has a value that is not finite; nothing was saved")]
    NonFiniteWeights {
        /// The parameter.
        name: String,
    },
    /// A matrix has no absmean to divide by.
    #[error("tensor {name}: {rule}")]
    Projection {
        /// The tensor.
        name: String,
        /// The rule and the value found.
        rule: String,
    },
}

/// Refuses a value of `key` unless a rule holds.
pub(crate) fn rule(holds: bool, key: &str, rule: String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Key { key: key.into(), rule }) }
}

impl Error {
    /// The dotted key that an error about a configuration names.
    pub(crate) fn key(&self) -> Option<String> {
        match self {
            Self::Key { key, .. } => Some(key.trim_end_matches(':').to_owned()),
            Self::Format(tern_format::Error::Config { key, .. }) => Some(format!("model.{key}")),
            Self::Datasets(tern_datasets::Error::Config { key, .. }) => Some(format!("data.{key}")),
            Self::Datasets(tern_datasets::Error::OtherTokens { key, .. }) => {
                Some(format!("data.{key}"))
            }
            _ => None,
        }
    }

    /// Names a file under the name that its directory will have, not that of the temporary one that it was written to.
    pub(crate) fn under(self, temporary: &Path, directory: &Path) -> Self {
        let renamed = |path: &Path| {
            path.strip_prefix(temporary).map_or(path.into(), |name| directory.join(name))
        };
        match self {
            Self::Io { path, source } => Self::Io { path: renamed(&path), source },
            Self::Format(tern_format::Error::In { path, source }) => {
                Self::Format(tern_format::Error::In { path: renamed(&path), source })
            }
            other => other,
        }
    }

    /// Attaches a path to what the system said.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
