//! From a packed file to text: the decoder over packed weights, its cache, the sampler, and the verifier.
//!
//! Nothing here knows Burn or the trainer. The layers, a file each, in the order of the forward pass:
//! [`linear`], [`norm`], [`rope`], [`attention`], [`mlp`], [`block`], `head`, [`decoder`].
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use tern_infer::{generate::{Generator, Options}, Model};
//!
//! let model = Model::open("story.safetensors".as_ref())?;
//! let generator = Generator::new(&model)?;
//! let options = Options::from(&model.metadata().generation);
//! let story = generator.generate("Once upon a time", &options, |piece| {
//!     eprint!("{piece}");
//!     ControlFlow::Continue(())
//! })?;
//! # Ok::<(), tern_infer::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod attention;
// In a browser there is no clock, and there are no files.
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub mod bench;
pub mod block;
pub mod cache;
pub mod chat;
mod clock;
pub mod decoder;
pub mod error;
pub mod generate;
mod head;
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub mod import;
pub mod linear;
pub mod loss;
pub mod mlp;
pub mod norm;
mod packed_file;
pub mod rope;
mod rows;
pub mod sampler;
pub mod stop;
pub mod verify;

#[cfg(test)]
mod reference;

pub use decoder::Model;
pub use error::{Error, Result};
