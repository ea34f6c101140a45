//! Products of ternary matrices with float or int8 tokens, and of the int8 head, by the kernel chosen at run time.

use std::fmt;
use std::ops::Range;

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
use crate::pages::Line;
use crate::pool::{PARALLEL, Pool};
use crate::scratch::Scratch;
use crate::shared::Shared;
use crate::simd::simd;
use crate::sparse_matrix::{self, SparseMatrix};
use crate::ternary_matrix::{BLOCK, PANEL, TernaryMatrix};
use crate::tokens::{FloatTokens, GROUP, Int8Tokens, MANY, MOST, TILES, Tile, pieces, tiles};

/// The environment variable that forces a kernel by name.
pub const VARIABLE: &str = "TERN_KERNEL";

/// The names of all kernels, fastest first.
const NAMES: [&str; 7] =
    ["amx-int8", "avx512-vnni", "avx-vnni", "avx2", "neon-dotprod", "wasm-simd128", "scalar"];

/// Panels that a kernel is given at once.
const PANELS: usize = 4;

/// Panels that a kernel of 2:4 is given, so that a table once loaded serves 128 rows; `PANELS` where there are too few rows
/// for every thread. A tile of 12 tokens is never so multiplied.
const SPARSE_PANELS: usize = 8;
const _: () = assert!((PANELS * PANEL).is_multiple_of(sparse_matrix::ROWS));
const _: () = assert!(TILES[1] * SPARSE_PANELS <= TILES[0] * PANELS, "the sums of a tile fit");

/// From so many tokens on it pays to unpack a 2:4 matrix and multiply as a dense one.
const UNPACKED: usize = TILES[0];

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

    /// One whose instructions are emulated.
    #[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
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
        let scale = |sums: &[i32], of_rows: &[f32], t: usize, y: &mut [f32]| {
            scale_ints(sums, x.sums()[t], of_rows, x.scales()[t], y);
        };
        let walk = Walk::of(w.scales(), w.d_input(), x.seq());
        if let Some(many) = self.0.many().filter(|_| x.seq() >= MANY) {
            let product = |panels| {
                let blocks = w.blocks(panels);
                move |Tile { first, tokens }, sums: &mut [i32]| {
                    many.ternary_int8(blocks, x.codes(first), x.d_input(), tokens, sums);
                }
            };
            return multiply_in::<MOST, _, _>(pool, walk, y, product, scale);
        }
        let product = |panels| {
            let blocks = w.blocks(panels);
            move |tile: Tile, sums: &mut [i32]| {
                self.0.ternary_int8(blocks, x.tile(tile), tile.tokens, sums);
            }
        };
        multiply(pool, walk, y, product, scale);
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
        let product = |panels| {
            let blocks = w.blocks(panels);
            move |tile: Tile, sums: &mut [f32]| {
                self.0.ternary_f32(blocks, x.tile(tile), tile.tokens, sums);
            }
        };
        let scale =
            |sums: &[f32], of_rows: &[f32], _, y: &mut [f32]| scale_floats(sums, of_rows, y);
        multiply(pool, Walk::of(w.scales(), w.d_input(), x.seq()), y, product, scale);
    }

    /// Whether a 2:4 matrix is faster with this kernel as a [`SparseMatrix`] than as a dense one. The products are equal to
    /// the bit either way.
    pub fn prefers_sparse(&self) -> bool {
        self.0.prefers_sparse()
    }

    /// As [`Self::ternary_int8`], of a 2:4 matrix.
    ///
    /// # Shapes
    ///
    /// - `w`: `[d_output, d_input]`; `x`: `[seq, d_input]`; `y`: `[seq, d_output]`
    ///
    /// # Panics
    ///
    /// If the shapes do not fit.
    pub fn sparse_int8(&self, pool: &Pool, w: &SparseMatrix, x: &Int8Tokens, y: &mut [f32]) {
        assert_eq!(w.d_input(), x.d_input(), "the inputs of the matrix");
        if x.seq() >= UNPACKED {
            let depth = w.d_input().div_ceil(BLOCK);
            let product = |panels: Range<usize>| {
                let (used, blocks) = (panels.len() * depth, self.unpack(w, panels));
                move |tile: Tile, sums: &mut [i32]| {
                    self.0.ternary_int8(&blocks[..used], x.tile(tile), tile.tokens, sums);
                }
            };
            let scale = |sums: &[i32], of_rows: &[f32], t: usize, y: &mut [f32]| {
                scale_ints(sums, x.sums()[t], of_rows, x.scales()[t], y);
            };
            return multiply(pool, Walk::of(w.scales(), w.d_input(), x.seq()), y, product, scale);
        }
        let groups = w.depth() * sparse_matrix::GROUPS;
        let tables = self.tables(x, groups);
        let product = |panels: Range<usize>| {
            let (lines, width, tables) = (w.lines(panels.clone()), panels.len() * PANEL, &tables);
            move |tile: Tile, sums: &mut [i32]| {
                let mut all = [0; SPARSE_PANELS * PANEL];
                let all = &mut all[..width.next_multiple_of(sparse_matrix::ROWS)];
                for (t, sums) in (tile.first..).zip(sums.chunks_exact_mut(width)) {
                    self.0.sparse_int8(lines, &tables[t * groups..][..groups], all);
                    sums.copy_from_slice(&all[..width]);
                }
            }
        };
        // The sums are of trits already.
        let scale = |sums: &[i32], of_rows: &[f32], t: usize, y: &mut [f32]| {
            scale_ints(sums, 0, of_rows, x.scales()[t], y);
        };
        let mut walk = Walk::of(w.scales(), w.d_input(), x.seq());
        let alone = pool.threads() == 1 || walk.work() < PARALLEL;
        let enough = w.d_output() >= 4 * pool.threads() * SPARSE_PANELS * PANEL;
        if alone || enough {
            walk.at_once = SPARSE_PANELS;
        }
        multiply(pool, walk, y, product, scale);
    }

    /// As [`Self::ternary_f32`], of a 2:4 matrix.
    ///
    /// # Shapes
    ///
    /// - `w`: `[d_output, d_input]`; `x`: `[seq, d_input]`; `y`: `[seq, d_output]`
    ///
    /// # Panics
    ///
    /// If the shapes do not fit.
    pub fn sparse_f32(&self, pool: &Pool, w: &SparseMatrix, x: &FloatTokens, y: &mut [f32]) {
        assert_eq!(w.d_input(), x.d_input(), "the inputs of the matrix");
        let depth = w.d_input().div_ceil(BLOCK);
        let product = |panels: Range<usize>| {
            let (used, blocks) = (panels.len() * depth, self.unpack(w, panels));
            move |tile: Tile, sums: &mut [f32]| {
                self.0.ternary_f32(&blocks[..used], x.tile(tile), tile.tokens, sums);
            }
        };
        let scale =
            |sums: &[f32], of_rows: &[f32], _, y: &mut [f32]| scale_floats(sums, of_rows, y);
        multiply(pool, Walk::of(w.scales(), w.d_input(), x.seq()), y, product, scale);
    }

    /// The tables of each token, `[seq, groups]`.
    fn tables(&self, x: &Int8Tokens, groups: usize) -> Scratch {
        let mut tables = Scratch::take(x.seq() * groups);
        for tile in tiles(x.seq()) {
            for t in 0..tile.tokens {
                let tables = &mut tables[(tile.first + t) * groups..][..groups];
                let (tables, rest) = tables.split_at_mut(x.tile(tile).len() / tile.tokens);
                match tile.tokens {
                    1 => self.0.tables(x.tile(tile), tables),
                    tokens => {
                        let token = x.tile(tile)[t..].iter().step_by(tokens).copied();
                        self.0.tables(&token.collect::<Vec<_>>(), tables);
                    }
                }
                rest.fill(Line([0; 64]));
            }
        }
        tables
    }

    /// Panels of a 2:4 matrix as dense ones, block by block.
    fn unpack(&self, w: &SparseMatrix, panels: Range<usize>) -> Scratch {
        let depth = w.d_input().div_ceil(BLOCK);
        let mut blocks = Scratch::take(panels.len().next_multiple_of(2) * depth);
        let lines = w.lines(panels.clone()).chunks_exact(w.depth() * sparse_matrix::LINES);
        for (lines, dense) in lines.zip(blocks.chunks_exact_mut(2 * depth)) {
            let (upper, lower) = dense.split_at_mut(depth);
            self.0.unpack(lines, [upper, lower]);
        }
        blocks
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
        let product = |panels| {
            let lines = w.lines(panels);
            move |tile: Tile, sums: &mut [i32]| {
                // Tokens are filled up to blocks of 16, these rows to groups of four.
                let x = &x.tile(tile)[..depth * tile.tokens];
                self.0.int8_rows(lines, x, tile.tokens, sums);
            }
        };
        let scale = |sums: &[i32], of_rows: &[f32], t: usize, y: &mut [f32]| {
            scale_ints(sums, Int8Matrix::offset(x.sums()[t]), of_rows, x.scales()[t], y);
        };
        multiply(pool, Walk::of(w.scales(), w.d_input(), x.seq()), y, product, scale);
    }
}

simd! {
    /// `y = (sum - offset) * of_row * of_token`.
    fn scale_ints<'a>(
        sums: &'a [i32],
        offset: i32,
        of_rows: &'a [f32],
        of_token: f32,
        y: &'a mut [f32],
    ) {
        for ((y, &sum), of_row) in y.iter_mut().zip(sums).zip(of_rows) {
            *y = sum.wrapping_sub(offset) as f32 * of_row * of_token;
        }
    }
}

simd! {
    fn scale_floats<'a>(sums: &'a [f32], of_rows: &'a [f32], y: &'a mut [f32]) {
        for ((y, sum), of_row) in y.iter_mut().zip(sums).zip(of_rows) {
            *y = sum * of_row;
        }
    }
}

/// What a product walks over.
struct Walk<'a> {
    /// One for each row.
    scales: &'a [f32],
    d_input: usize,
    seq: usize,
    /// Panels that a kernel is given at once.
    at_once: usize,
}

impl<'a> Walk<'a> {
    fn of(scales: &'a [f32], d_input: usize, seq: usize) -> Self {
        Self { scales, d_input, seq, at_once: PANELS }
    }

    /// Multiplications.
    fn work(&self) -> usize {
        self.seq * self.scales.len() * self.d_input
    }
}

/// Walks over panels and tiles: a task takes some panels and all tokens.
///
/// `product` makes of some panels what writes their sums with a tile, `[tokens, rows]`; `scale` makes the outputs of a
/// token from its sums and the scales of their rows.
fn multiply<S: Copy + Default, P: Fn(Tile, &mut [S])>(
    pool: &Pool,
    walk: Walk<'_>,
    y: &mut [f32],
    product: impl Fn(Range<usize>) -> P + Sync,
    scale: impl Fn(&[S], &[f32], usize, &mut [f32]) + Sync,
) {
    multiply_in::<{ TILES[0] }, S, P>(pool, walk, y, product, scale);
}

/// [`multiply`] in tiles, or in pieces where there is room for the `TOKENS` of one.
fn multiply_in<const TOKENS: usize, S: Copy + Default, P: Fn(Tile, &mut [S])>(
    pool: &Pool,
    walk: Walk<'_>,
    y: &mut [f32],
    product: impl Fn(Range<usize>) -> P + Sync,
    scale: impl Fn(&[S], &[f32], usize, &mut [f32]) + Sync,
) {
    let (work, Walk { scales, seq, at_once, .. }) = (walk.work(), walk);
    let d_output = scales.len();
    assert_eq!(Some(y.len()), seq.checked_mul(d_output), "one output for a row and a token");
    let all = d_output.div_ceil(PANEL);
    let groups = all.div_ceil(at_once);
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
            let panels = group * at_once..(group * at_once + at_once).min(all);
            let (first, width) = (panels.start * PANEL, panels.len() * PANEL);
            let rows = width.min(d_output - first);
            let scales = &scales[first..first + rows];
            let product = product(panels);
            let mut multiply = |tile: Tile| {
                let sums = &mut sums[..tile.tokens * width];
                product(tile, sums);
                for (t, sums) in (tile.first..).zip(sums.chunks_exact(width)) {
                    // SAFETY: the rows of this group, which no other task has.
                    let y = unsafe { y.slice(t * d_output + first, rows) };
                    scale(&sums[..rows], scales, t, y);
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
