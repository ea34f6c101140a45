//! Arithmetic on slices: ternary products, quantizers, and the fused passes of training.
//!
//! The only crate with `unsafe`: SIMD kernels, threads and memory.

pub mod activation;
mod arch;
pub mod attention;
// In a browser there is no clock.
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub mod bandwidth;
pub mod cpu;
pub mod dense;
mod exp;
pub mod gemm;
pub mod int8_matrix;
pub mod mapped_file;
pub mod norm;
mod pages;
pub mod pool;
pub mod quantize;
pub mod rope;
mod scratch;
mod shared;
mod simd;
pub mod softmax;
pub mod sparse_matrix;
pub mod ternarize;
pub mod ternary;
pub mod ternary_matrix;
pub mod tokens;
#[cfg(feature = "train")]
pub mod train;
