//! What the bytes of a model mean: configurations, trits, packed files, tokenizers; and that a file is whole or not there
//! ([`atomic`]), locked ([`lock`]) and regular ([`regular_file`]).
//!
//! What decides takes slices and readers; functions that take paths stand beside it. Nothing here knows of arithmetic or of
//! Burn.
#![forbid(unsafe_code)]

pub mod atomic;
mod charsmap;
pub mod chat_template;
pub mod checksum;
pub mod config;
pub mod contain;
mod decode;
pub mod error;
mod foreign_keys;
pub mod gguf;
pub mod harmless;
pub mod huggingface;
mod interchange;
pub mod lock;
pub mod packed;
pub mod protocol_buffer;
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub mod pytorch;
pub mod regular_file;
mod rows;
pub mod s24;
pub mod s24n;
pub mod safetensors;
mod sentence_piece;
mod sentence_piece_model;
pub mod stream;
pub mod t2;
pub mod t5;
pub mod tokenizer;
mod tokenizer_json;

pub use error::{Error, Result};
