//! Products of ternary matrices with float or int8 vectors, by the kernel chosen at run time.
//!
//! A matrix is rows of 2-bit codes (`trit + 1`), four to a byte, lowest bits first; each row starts at
//! a byte, and the padding of its last byte is left out of the arithmetic. This is the packed file's own
//! layout, so nothing is repacked at load.

use std::fmt;

#[cfg(target_arch = "x86_64")]
use crate::arch::Avx2;
use crate::arch::{Arch, Scalar};

/// The environment variable that forces a kernel by name.
pub const VARIABLE: &str = "TERN_KERNEL";

/// The names of all kernels, fastest first.
const NAMES: [&str; 2] = ["avx2", "scalar"];

/// Arithmetic for the CPU at hand.
///
/// Every kernel adds in an order of its own that depends on nothing but the shape: the same kernel gives
/// the same bits for the same row whatever is computed beside it, on any number of threads.
#[derive(Clone, Copy)]
pub struct Kernel(&'static dyn Arch);

/// The named kernel does not exist, or not on this CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKernel {
    /// The name asked for.
    pub name: String,
    /// The names that this CPU can run, fastest first.
    pub available: Vec<&'static str>,
}

impl fmt::Display for UnknownKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = if NAMES.contains(&self.name.as_str()) {
            "this CPU lacks the instructions of kernel"
        } else {
            "there is no kernel"
        };
        write!(
            f,
            "{why} \"{}\" ({VARIABLE}); choose one of: {}",
            self.name,
            self.available.join(", ")
        )
    }
}

impl std::error::Error for UnknownKernel {}

impl Kernel {
    /// The fastest kernel of this CPU, or the one that `TERN_KERNEL` names.
    ///
    /// # Errors
    ///
    /// If `TERN_KERNEL` names a kernel that does not exist or that this CPU cannot run.
    pub fn detect() -> Result<Self, UnknownKernel> {
        match std::env::var_os(VARIABLE) {
            Some(name) if !name.is_empty() => Self::by_name(&name.to_string_lossy()),
            _ => Ok(Self::available().into_iter().next().unwrap_or(Self(&Scalar))),
        }
    }

    /// The kernel of this name.
    ///
    /// # Errors
    ///
    /// If there is none, or this CPU cannot run it.
    pub fn by_name(name: &str) -> Result<Self, UnknownKernel> {
        let found = Self::available().into_iter().find(|kernel| kernel.name() == name);
        found.ok_or_else(|| UnknownKernel {
            name: name.into(),
            available: Self::available().iter().map(Self::name).collect(),
        })
    }

    /// Every kernel that this CPU can run, fastest first.
    pub fn available() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let simd = Avx2::new().map(|avx2| Self(avx2));
        #[cfg(not(target_arch = "x86_64"))]
        let simd: Option<Self> = None;
        simd.into_iter().chain([Self(&Scalar)]).collect()
    }

    /// The name that `TERN_KERNEL` takes.
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    pub(crate) fn arch(&self) -> &'static dyn Arch {
        self.0
    }

    /// `y_r = sum_i trit(r, i) * x_i`, for one vector. Multiply by the scale afterwards.
    ///
    /// # Shapes
    ///
    /// - `bytes`: `[d_output, ceil(d_input / 4)]`; `x`: `[d_input]`; `y`: `[d_output]`
    ///
    /// # Panics
    ///
    /// If a length does not fit the shape.
    pub fn matvec_f32(
        &self,
        bytes: &[u8],
        d_output: usize,
        d_input: usize,
        x: &[f32],
        y: &mut [f32],
    ) {
        assert_eq!(x.len(), d_input, "one vector");
        self.matmul_f32(bytes, d_output, d_input, x, y);
    }

    /// [`Self::matvec_f32`] for several vectors: the trits are decoded once for a few of them.
    ///
    /// The result is to the bit that of one vector after the other.
    ///
    /// # Shapes
    ///
    /// - `bytes`: `[d_output, ceil(d_input / 4)]`; `x`: `[seq, d_input]`; `y`: `[seq, d_output]`
    ///
    /// # Panics
    ///
    /// If a length does not fit the shape, or `d_input` is 0.
    pub fn matmul_f32(
        &self,
        bytes: &[u8],
        d_output: usize,
        d_input: usize,
        x: &[f32],
        y: &mut [f32],
    ) {
        check(bytes.len(), d_output, d_input, x.len(), y.len());
        self.0.ternary_f32(bytes, d_output, d_input, x, y);
    }

    /// `y_r = sum_i trit(r, i) * x_i`, exact, for one vector of codes.
    ///
    /// # Shapes
    ///
    /// - `bytes`: `[d_output, ceil(d_input / 4)]`; `x`: `[d_input]`; `y`: `[d_output]`
    ///
    /// # Panics
    ///
    /// As [`Self::matmul_i8`].
    pub fn matvec_i8(
        &self,
        bytes: &[u8],
        d_output: usize,
        d_input: usize,
        x: &[i8],
        y: &mut [i32],
    ) {
        assert_eq!(x.len(), d_input, "one vector");
        self.matmul_i8(bytes, d_output, d_input, x, y);
    }

    /// [`Self::matvec_i8`] for several vectors: the trits are decoded once for a few of them.
    ///
    /// # Shapes
    ///
    /// - `bytes`: `[d_output, ceil(d_input / 4)]`; `x`: `[seq, d_input]`; `y`: `[seq, d_output]`
    ///
    /// # Panics
    ///
    /// If a length does not fit the shape, or `d_input` is 0 or beyond 2^22, where a sum (of codes
    /// up to 3, should the bytes hold the invalid one) could pass 32 bits.
    pub fn matmul_i8(
        &self,
        bytes: &[u8],
        d_output: usize,
        d_input: usize,
        x: &[i8],
        y: &mut [i32],
    ) {
        check(bytes.len(), d_output, d_input, x.len(), y.len());
        assert!(d_input <= 1 << 22, "sums stay inside 32 bits");
        self.0.ternary_i8(bytes, d_output, d_input, x, y);
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kernel").field(&self.name()).finish()
    }
}

/// The lengths that every kernel relies on.
fn check(bytes: usize, d_output: usize, d_input: usize, x: usize, y: usize) {
    assert!(d_input > 0, "vectors of something");
    assert_eq!(Some(bytes), d_output.checked_mul(d_input.div_ceil(4)), "rows of packed trits");
    assert!(x.is_multiple_of(d_input), "whole vectors");
    assert_eq!(Some(y), (x / d_input).checked_mul(d_output), "one sum for a row and a vector");
}
