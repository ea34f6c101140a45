//! The training loop: a run's configuration, schedules, optimizers, checkpoints, metrics, projection at export.
#![forbid(unsafe_code)]

mod adamw;
pub mod checkpoint;
pub mod config;
pub mod directory;
pub mod error;
pub mod evaluation;
pub mod export;
pub mod gradients;
pub mod guard;
pub mod metrics;
mod muon;
pub mod objective;
pub mod optimizer;
pub mod plan;
mod preset;
pub mod profile;
pub mod ranks;
pub mod reference;
pub mod rehearsal;
pub mod schedule;
pub mod trainer;
pub mod weights;
pub mod written;

pub use error::{Error, Result};
