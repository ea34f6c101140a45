//! The fused passes of training: forward and backward arithmetic on slices.
//!
//! Three promises hold for every function here, and the tests keep them:
//!
//! - **Same bytes every time.** No sum depends on the order in which threads finish, on how many there are, or on the
//!   width of the CPU's vectors: products are chains of fused multiply-adds in the order of their index, other sums
//!   run in 16 fixed lanes over fixed chunks of rows. (Only `ln` is the platform's own.)
//! - **No target flags.** The loops are compiled once per instruction set and chosen at run time (`simd.rs`).
//! - **Shapes are checked** on entry; a mismatch is the caller's bug and panics.

pub(crate) mod blocking;
mod rotation;

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod bf16;
pub mod bias;
pub mod clip;
pub mod cross_entropy;
pub mod embedding;
pub mod fake_quantize;
pub mod gemm;
pub mod newton_schulz;
pub mod norm;
pub mod peak;
pub mod pool;

#[cfg(test)]
mod tests;
