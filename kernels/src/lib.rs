//! Arithmetic on slices: ternary products, quantizers, and the fused passes of training.
//!
//! The only crate with `unsafe`: SIMD kernels and memory maps.

mod arch;
pub mod cpu;
pub mod dense;
pub mod exp;
pub mod mapped_file;
pub mod norm;
pub mod quantize;
pub mod rope;
pub mod softmax;
pub mod swiglu;
pub mod ternarize;
pub mod ternary;
#[cfg(feature = "train")]
pub mod train;
