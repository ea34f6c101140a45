//! What the bytes of a model mean: configurations, trits, packed files, tokenizers.
//!
//! This crate takes slices and readers, knows nothing of arithmetic or of Burn, and runs in a browser unchanged.
#![forbid(unsafe_code)]

pub mod atomic;
pub mod checksum;
pub mod config;
pub mod error;
pub mod packed;
pub mod regular_file;
pub mod safetensors;
mod sentence_piece;
pub mod stream;
pub mod t2;
pub mod tokenizer;

pub use error::{Error, Result};
