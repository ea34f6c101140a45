//! The arithmetic of products in training.

use tern_kernels::train::bf16::Bf16;
use tern_kernels::train::gemm::{self, Matrix};

/// What the two sides of a product are rounded to before they are multiplied; sums are f32 in any case.
#[derive(Clone, Copy, Debug, Default)]
pub enum Precision {
    /// Nothing.
    #[default]
    F32,
    /// bf16, by instructions of this CPU.
    Bf16(Bf16),
}

impl Precision {
    /// bf16 where this CPU multiplies it, else f32.
    pub fn bf16_or_f32() -> Self {
        Bf16::detect().map_or(Self::F32, Self::Bf16)
    }

    /// `f32`, or the instruction set of bf16's products.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16(kernel) => kernel.name(),
        }
    }

    /// `out = a * b`; shapes as in [`gemm::matmul`].
    pub(crate) fn matmul(self, a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) {
        match self {
            Self::F32 => gemm::matmul(a, b, out),
            Self::Bf16(kernel) => kernel.matmul(a, b, out),
        }
    }
}
