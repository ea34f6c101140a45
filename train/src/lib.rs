//! The training loop: a run's configuration, schedules, AdamW, checkpoints, metrics, projection at export.
#![forbid(unsafe_code)]

pub mod adamw;
pub mod checkpoint;
pub mod config;
pub mod directory;
pub mod error;
pub mod evaluation;
pub mod export;
pub mod gradients;
pub mod metrics;
pub mod plan;
pub mod schedule;
pub mod trainer;

pub use error::{Error, Result};
