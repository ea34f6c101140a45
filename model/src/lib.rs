//! Ternary decoders in Burn: the quantizer, the layers, the decoder, weights into and out of modules.
//!
//! One pre-norm decoder serves every architecture; [`tern_format::config::ModelConfig`] says which parts it is made
//! of. Activations are rank 2, `[batch * seq, hidden]`: every layer but attention sees tokens, not sequences.
#![forbid(unsafe_code)]

pub mod attention;
pub mod bit_linear;
pub mod block;
pub mod decoder;
pub mod device;
pub mod embedding;
pub mod fused;
pub mod mlp;
pub mod norm;
pub mod parameters;
pub mod precision;
pub mod profile;

pub use decoder::Decoder;
pub use precision::Precision;
