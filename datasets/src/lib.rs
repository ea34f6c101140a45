//! Text to tokens to windows, and an embedded corpus of small stories.
#![forbid(unsafe_code)]

pub mod batches;
pub mod config;
pub mod documents;
pub mod error;
pub mod prepare;
pub mod split;
pub mod stats;
pub mod stories;
mod summary;
pub mod token_file;
pub mod tokenizer_training;
mod unigram_training;

pub use error::{Error, Result};
