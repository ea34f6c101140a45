//! What the bytes of a model mean: configurations, trits, packed files, tokenizers.
//!
//! This crate takes slices and readers, knows nothing of arithmetic or of Burn, and runs in a browser unchanged.
#![forbid(unsafe_code)]

pub mod atomic;
mod charsmap;
pub mod checksum;
pub mod config;
mod contain;
pub mod error;
pub mod packed;
mod protocol_buffer;
pub mod regular_file;
pub mod safetensors;
mod sentence_piece;
pub mod stream;
pub mod t2;
pub mod tokenizer;
mod tokenizer_json;

pub use error::{Error, Result};
