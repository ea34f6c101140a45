//! Fused operations: hand-written forward and backward passes on the CPU.
//!
//! Each file holds one operation three times: the public function, its `plain_` composition of ordinary Burn operations,
//! and the extension that binds `tern_kernels::train` to Burn's Flex backend and its autodiff. The public function takes
//! the fused path for f32 tensors on a Flex device and the plain one everywhere else; the tests hold the two together.
//! Both passes of the fused path are spans of [`crate::profile`].

mod activation;
mod adamw;
mod attention;
mod bias;
mod clip;
mod cross_entropy;
mod embedding;
mod fake_quantize;
mod flex;
mod layer_norm;
mod linear;
mod minilm_linear;
mod newton_schulz;
mod rms_norm;
mod ternary_linear;
#[cfg(test)]
mod tests;

pub use activation::{Activation, activate, gate, plain_activate, plain_gate};
pub use adamw::{AdamW, Moved, adamw, plain_adamw};
pub use attention::{AttentionShape, RopeTables, causal_attention, plain_causal_attention};
pub use bias::{add_bias, plain_add_bias};
pub use clip::{plain_sum_of_squares, scale, sum_of_squares};
pub use cross_entropy::{cross_entropy, plain_cross_entropy};
pub use embedding::{embedding, plain_embedding};
pub use fake_quantize::{
    fake_quantize_int8, fake_ternarize, plain_fake_quantize_int8, plain_fake_ternarize,
};
pub use layer_norm::{layer_norm, plain_layer_norm};
pub use linear::{linear, plain_linear};
pub use minilm_linear::minilm_linear;
pub use newton_schulz::{newton_schulz, plain_newton_schulz};
pub use rms_norm::{plain_rms_norm, rms_norm};
pub use ternary_linear::{
    plain_quantized_linear, plain_ternary_linear, quantized_linear, ternary_linear,
};
