//! Products of ternary matrices with float or int8 tokens, and of the int8 head, by the kernel chosen at run time.

use std::fmt;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use crate::arch::Amx;
#[cfg(target_arch = "aarch64")]
use crate::arch::NeonDotprod;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use crate::arch::WasmSimd128;
use crate::arch::{Arch, Scalar};
#[cfg(target_arch = "x86_64")]
use crate::arch::{Avx2, Avx512Vnni, AvxVnni};
use crate::int8_matrix::Int8Matrix;
use crate::pool::{PARALLEL, Pool};
use crate::shared::Shared;
use crate::ternary_matrix::{PANEL, TernaryMatrix};
use crate::tokens::{FloatTokens, GROUP, Int8Tokens, MANY, MOST, TILES, Tile, pieces, tiles};

/// The environment variable that forces a kernel by name.
pub const VARIABLE: &str = "TERN_KERNEL";

/// The names of all kernels, fastest first.
const NAMES: [&str; 7] =
    ["amx-int8", "avx512-vnni", "avx-vnni", "avx2", "neon-dotprod", "wasm-simd128", "scalar"];

/// Panels that a kernel is given at once.
const PANELS: usize = 4;

/// Products that make a task: 10 to 50 us of one core, many times what it costs to hand one out, and little enough
/// that nobody waits long for the last.
const TASK: usize = 1 << 22;

/// Arithmetic for the CPU at hand.
///
/// Ternary products are equal to the bit on every kernel and any number of threads: those of integers because they are
/// exact, those of floats because every kernel adds the inputs of a row one after the other, and `trit * x` is exact.
/// Float products add in an order of the kernel's own, which depends on nothing but the shape: the same kernel gives
/// the same bits for the same row whatever is computed beside it.
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
        let mut kernels = Vec::new();
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        kernels.extend(Amx::new().map(|arch| Self(arch)));
        #[cfg(target_arch = "x86_64")]
        {
            kernels.extend(Avx512Vnni::new().map(|arch| Self(arch)));
            kernels.extend(AvxVnni::new().map(|arch| Self(arch)));
            kernels.extend(Avx2::new().map(|arch| Self(arch)));
        }
        #[cfg(target_arch = "aarch64")]
        kernels.extend(NeonDotprod::new().map(|arch| Self(arch)));
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        kernels.push(Self(&WasmSimd128));
        kernels.push(Self(&Scalar));
        kernels
    }

    /// The names of kernels that were written for other CPUs, or for features that this one lacks.
    pub fn unavailable() -> Vec<&'static str> {
        let available: Vec<_> = Self::available().iter().map(Self::name).collect();
        NAMES.into_iter().filter(|name| !available.contains(name)).collect()
    }

    /// The name that `TERN_KERNEL` takes.
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// One that this CPU need not have.
    #[cfg(test)]
    pub(crate) fn of(arch: &'static dyn Arch) -> Self {
        Self(arch)
    }

    pub(crate) fn arch(&self) -> &'static dyn Arch {
        self.0
    }

    /// `y[t, r] = (sum_i trit(r, i) * code(t, i)) * scale(r) * scale(t)`: the sum is exact, the scales come after it
    /// (arXiv:2402.17764 section 2).
    ///
    /// # Shapes
    ///
    /// - `w`: `[d_output, d_input]`; `x`: `[seq, d_input]`; `y`: `[seq, d_output]`
    ///
    /// # Panics
    ///
    /// If the shapes do not fit.
    pub fn ternary_int8(&self, pool: &Pool, w: &TernaryMatrix, x: &Int8Tokens, y: &mut [f32]) {
        assert_eq!(w.d_input(), x.d_input(), "the inputs of the matrix");
        let scale =
            |sum: i32, of_row: f32, t: usize| (sum - x.sums()[t]) as f32 * of_row * x.scales()[t];
        if let Some(many) = self.0.many().filter(|_| x.seq() >= MANY) {
            let product = |panels, Tile { first, tokens }, sums: &mut [i32]| {
                many.ternary_int8(w.blocks(panels), x.codes(first), x.d_input(), tokens, sums);
            };
            return multiply_in::<MOST, _>(
                pool,
                w.scales(),
                w.d_input(),
                x.seq(),
                y,
                product,
                scale,
            );
        }
        let product = |panels, tile: Tile, sums: &mut [i32]| {
            self.0.ternary_int8(w.blocks(panels), x.tile(tile), tile.tokens, sums);
        };
        multiply(pool, w.scales(), w.d_input(), x.seq(), y, product, scale);
    }

    /// `y[t, r] = (sum_i trit(r, i) * x(t, i)) * scale(r)`.
    ///
    /// # Shapes
    ///
    /// - `w`: `[d_output, d_input]`; `x`: `[seq, d_input]`; `y`: `[seq, d_output]`
    ///
    /// # Panics
    ///
    /// If the shapes do not fit.
    pub fn ternary_f32(&self, pool: &Pool, w: &TernaryMatrix, x: &FloatTokens, y: &mut [f32]) {
        assert_eq!(w.d_input(), x.d_input(), "the inputs of the matrix");
        let product = |panels, tile: Tile, sums: &mut [f32]| {
            self.0.ternary_f32(w.blocks(panels), x.tile(tile), tile.tokens, sums);
        };
        let scale = |sum, of_row, _| sum * of_row;
        multiply(pool, w.scales(), w.d_input(), x.seq(), y, product, scale);
    }

    /// `y[t, r] = (sum_i code(r, i) * code(t, i)) * scale(r) * scale(t)`, the sum exact.
    ///
    /// # Shapes
    ///
    /// - `w`: `[d_output, d_input]`; `x`: `[seq, d_input]`; `y`: `[seq, d_output]`
    ///
    /// # Panics
    ///
    /// If the shapes do not fit.
    pub fn int8_rows(&self, pool: &Pool, w: &Int8Matrix, x: &Int8Tokens, y: &mut [f32]) {
        assert_eq!(w.d_input(), x.d_input(), "the inputs of the matrix");
        let depth = w.d_input().div_ceil(GROUP);
        let product = |panels, tile: Tile, sums: &mut [i32]| {
            // Tokens are filled up to blocks of 16, these rows to groups of four.
            let x = &x.tile(tile)[..depth * tile.tokens];
            self.0.int8_rows(w.lines(panels), x, tile.tokens, sums);
        };
        let scale = |sum: i32, of_row: f32, t: usize| {
            Int8Matrix::without_offset(sum, x.sums()[t]) as f32 * of_row * x.scales()[t]
        };
        multiply(pool, w.scales(), w.d_input(), x.seq(), y, product, scale);
    }
}

/// Walks over panels and tiles: a task takes some panels and all tokens.
///
/// `product` writes the sums of some panels and a tile, `[tokens, rows]`; `scale` makes an output of a sum, its row's
/// scale and its token.
fn multiply<S: Copy + Default>(
    pool: &Pool,
    scales: &[f32],
    d_input: usize,
    seq: usize,
    y: &mut [f32],
    product: impl Fn(std::ops::Range<usize>, Tile, &mut [S]) + Sync,
    scale: impl Fn(S, f32, usize) -> f32 + Sync,
) {
    multiply_in::<{ TILES[0] }, S>(pool, scales, d_input, seq, y, product, scale);
}

/// [`multiply`] in tiles, or in pieces where there is room for the `TOKENS` of one.
fn multiply_in<const TOKENS: usize, S: Copy + Default>(
    pool: &Pool,
    scales: &[f32],
    d_input: usize,
    seq: usize,
    y: &mut [f32],
    product: impl Fn(std::ops::Range<usize>, Tile, &mut [S]) + Sync,
    scale: impl Fn(S, f32, usize) -> f32 + Sync,
) {
    let d_output = scales.len();
    assert_eq!(Some(y.len()), seq.checked_mul(d_output), "one output for a row and a token");
    let all = d_output.div_ceil(PANEL);
    let groups = all.div_ceil(PANELS);
    let work = seq * d_output * d_input;
    let tasks = if work < PARALLEL {
        1
    } else {
        // A few for each thread, so that one that is held up does not hold up the rest.
        work.div_ceil(TASK).clamp(4 * pool.threads(), 1 << 12).min(groups)
    };
    let y = Shared::new(y);
    pool.run_parts(groups, tasks, |part| {
        let mut sums = [[S::default(); PANELS * PANEL]; TOKENS];
        let sums = sums.as_flattened_mut();
        for group in part {
            let panels = group * PANELS..(group * PANELS + PANELS).min(all);
            let (first, width) = (panels.start * PANEL, panels.len() * PANEL);
            let rows = width.min(d_output - first);
            let scales = &scales[first..first + rows];
            let mut multiply = |tile: Tile| {
                let sums = &mut sums[..tile.tokens * width];
                product(panels.clone(), tile, sums);
                for (t, sums) in (tile.first..).zip(sums.chunks_exact(width)) {
                    // SAFETY: the rows of this group, which no other task has.
                    let y = unsafe { y.slice(t * d_output + first, rows) };
                    for ((y, &sum), &of_row) in y.iter_mut().zip(sums).zip(scales) {
                        *y = scale(sum, of_row, t);
                    }
                }
            };
            if TOKENS == MOST {
                pieces(seq).for_each(&mut multiply);
            } else {
                tiles(seq).for_each(&mut multiply);
            }
        }
    });
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kernel").field(&self.name()).finish()
    }
}
