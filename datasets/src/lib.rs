//! Text to tokens to windows, and an embedded corpus of small stories.
#![forbid(unsafe_code)]

pub mod batches;
pub mod config;
pub mod documents;
mod encoding;
pub mod error;
pub mod hub;
mod input;
pub mod prepare;
mod prepared;
pub mod split;
pub mod stats;
pub mod stories;
mod summary;
pub mod token_file;
pub mod tokenizer_training;
mod unfinished;
mod unigram_training;
mod validation;

pub use error::{Error, Result};
