//! Products of f32 matrices on one thread: of training, and of attention.
//!
//! The left side is read through its strides, and nothing but the right side's edges is packed; training packs what is large
//! (`train/blocking.rs`). Every entry of a product is
//! one chain of fused multiply-adds in the order of the inner index, whatever the tile and the vector width: the same bytes
//! on every CPU with FMA, whatever is computed beside it.

use pulp::{Simd, WithSimd};

use crate::simd::prefetch;

/// Inner-index block: keeps the block of the right side within the first two cache levels.
const INNER: usize = 128;

/// Vectors in the width of one tile.
const WIDTH: usize = 2;

/// Columns in the widest tile: two vectors of AVX-512.
const MAX_WIDTH: usize = 32;

/// A matrix inside a slice: entry `(i, j)` is `values[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix `[rows, cols]`.
    ///
    /// # Panics
    ///
    /// If `values` is not `rows * cols` long.
    #[inline(always)]
    pub fn new(values: &'a [f32], rows: usize, cols: usize) -> Self {
        // Checked, since a product that wraps could pass and let the tiles read elsewhere.
        assert_eq!(Some(values.len()), rows.checked_mul(cols), "matrix of {rows} x {cols}");
        Self { values, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Rows of `cols` entries that start `row_stride` apart.
    ///
    /// # Panics
    ///
    /// If the last row ends outside `values`.
    #[inline(always)]
    pub(crate) fn strided(values: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            rows == 0 || (rows - 1) * row_stride + cols <= values.len(),
            "rows outside the slice"
        );
        Self { values, rows, cols, row_stride, col_stride: 1 }
    }

    /// The same entries with rows and columns exchanged; nothing moves.
    #[inline(always)]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// The first `rows` rows.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    #[inline(always)]
    pub fn first_rows(self, rows: usize) -> Self {
        assert!(rows <= self.rows);
        Self { rows, ..self }
    }

    /// `rows` rows from `row` on, of `cols` columns from `col` on.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    #[cfg(feature = "train")]
    #[inline(always)]
    pub(crate) fn part(self, row: usize, rows: usize, col: usize, cols: usize) -> Self {
        assert!(row + rows <= self.rows && col + cols <= self.cols, "a part of a matrix");
        // Without entries the start may lie outside.
        let start = (row * self.row_stride + col * self.col_stride).min(self.values.len());
        Self { values: &self.values[start..], rows, cols, ..self }
    }

    /// Entries from `(row, col)` on.
    #[inline(always)]
    pub(crate) fn from(self, row: usize, col: usize) -> *const f32 {
        // In bounds or one past: `row <= rows`, `col <= cols`.
        self.values.as_ptr().wrapping_add(row * self.row_stride + col * self.col_stride)
    }
}

/// One product on one thread: `out = a * b`, rows of `out` starting `out_stride` apart.
pub(crate) struct Block<'a> {
    pub(crate) a: Matrix<'a>,
    /// Row-major (`col_stride` 1).
    pub(crate) b: Matrix<'a>,
    pub(crate) out: &'a mut [f32],
    pub(crate) out_stride: usize,
    pub(crate) accumulate: bool,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { a, b, out, out_stride, accumulate } = self;
        let (m, k, n) = (a.rows, a.cols, b.cols);
        assert_eq!(b.rows, k, "inner sides of a product");
        assert_eq!(b.col_stride, 1, "right side by rows");
        if m == 0 || n == 0 {
            return;
        }
        assert!((m - 1) * out_stride + n <= out.len(), "product outside the slice");
        let width = WIDTH * S::F32_LANES;
        // Room for one block of the right side's last columns, padded with zeros; filled where there are such.
        let mut edge: [f32; INNER * MAX_WIDTH];
        assert!(width <= MAX_WIDTH);
        for k0 in (0..k).step_by(INNER) {
            let depth = INNER.min(k - k0);
            let accumulate = accumulate || k0 > 0;
            for j in (0..n).step_by(width) {
                let cols = width.min(n - j);
                let (right, right_stride) = if cols == width {
                    (b.from(k0, j), b.row_stride)
                } else {
                    edge = [0.0; INNER * MAX_WIDTH];
                    for p in 0..depth {
                        let row = (k0 + p) * b.row_stride + j;
                        edge[p * width..p * width + cols]
                            .copy_from_slice(&b.values[row..row + cols]);
                    }
                    (edge.as_ptr(), width)
                };
                let left = (a.from(0, k0), a.row_stride, a.col_stride);
                let out = (&mut out[j..], out_stride);
                // SAFETY: the rows are within `a` and `out` (checked above), the columns within `b` or the padded edge.
                unsafe {
                    tiles(simd, (m, depth, cols), left, (right, right_stride), out, accumulate)
                };
            }
        }
    }
}

/// A [`Block`] whose right side has whole tiles: what lies beyond the columns of the product may be anything.
#[cfg(feature = "train")]
pub(crate) struct PaddedBlock<'a>(pub(crate) Block<'a>, pub(crate) usize);

#[cfg(feature = "train")]
impl WithSimd for PaddedBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(Block { a, b, out, out_stride, accumulate }, cols) = self;
        let width = WIDTH * S::F32_LANES;
        assert_eq!((b.rows, b.col_stride), (a.cols, 1), "right side by rows");
        assert!(cols.next_multiple_of(width) <= b.cols, "right side in whole tiles");
        for j in (0..cols).step_by(width) {
            let left = (a.from(0, 0), a.row_stride, a.col_stride);
            let right = (b.from(0, j), b.row_stride);
            let size = (a.rows, a.cols, width.min(cols - j));
            assert!(
                (a.rows - 1) * out_stride + j + size.2 <= out.len(),
                "product outside the slice"
            );
            let out = (&mut out[j..], out_stride);
            // SAFETY: the rows are within `a` and `out`, the columns within `b` (checked above).
            unsafe { tiles(simd, size, left, right, out, accumulate) };
        }
    }
}

/// Rows by tiles: `rows` times `depth` of the left side, one tile's width of the right side.
///
/// # Safety
///
/// As for [`tile`] with all rows.
#[inline(always)]
unsafe fn tiles<S: Simd>(
    simd: S,
    (rows, depth, cols): (usize, usize, usize),
    (left, row_stride, col_stride): (*const f32, usize, usize),
    (right, right_stride): (*const f32, usize),
    (out, out_stride): (&mut [f32], usize),
    accumulate: bool,
) {
    let mut i = 0;
    while i < rows {
        let left = left.wrapping_add(i * row_stride);
        let strides = (row_stride, col_stride);
        let target = &mut out[i * out_stride..];
        macro_rules! tile {
            ($rows:literal) => {{
                // SAFETY: so many rows are left.
                unsafe {
                    tile::<S, $rows>(
                        simd,
                        depth,
                        left,
                        strides,
                        right,
                        right_stride,
                        target,
                        out_stride,
                        cols,
                        accumulate,
                    );
                }
                $rows
            }};
        }
        i += match rows - i {
            8.. if S::REGISTER_COUNT >= 32 => tile!(8),
            6.. if S::REGISTER_COUNT < 32 => tile!(6),
            4.. => tile!(4),
            2.. => tile!(2),
            _ => tile!(1),
        };
    }
}

/// A tile of `ROWS` rows and [`WIDTH`] vectors, of which the first `cols` columns are kept.
///
/// # Safety
///
/// `left` is readable at `i * strides.0 + p * strides.1` and `right` at `p * right_stride + j` for every `i < ROWS`,
/// `p < depth`, `j < WIDTH * S::F32_LANES`; `out` holds `ROWS` rows of `cols` entries, `out_stride` apart.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "an inner loop: all of them vary between calls")]
unsafe fn tile<S: Simd, const ROWS: usize>(
    simd: S,
    depth: usize,
    left: *const f32,
    strides: (usize, usize),
    right: *const f32,
    right_stride: usize,
    out: &mut [f32],
    out_stride: usize,
    cols: usize,
    accumulate: bool,
) {
    let lanes = S::F32_LANES;
    // Rows of a narrow tile go through a copy of full width.
    let whole = cols == WIDTH * lanes;
    let mut copy = [0.0_f32; MAX_WIDTH];
    // The result comes from memory while the sums are made: without, stores of a large one wait in turn.
    for i in 0..ROWS {
        for j in [0, cols / 2, cols - 1] {
            prefetch(out.as_ptr().wrapping_add(i * out_stride + j));
        }
    }
    let mut sums = [[simd.splat_f32s(0.0); WIDTH]; ROWS];
    if accumulate {
        for (i, sums) in sums.iter_mut().enumerate() {
            let row = if whole {
                out[i * out_stride..].as_ptr()
            } else {
                copy[..cols].copy_from_slice(&out[i * out_stride..i * out_stride + cols]);
                copy.as_ptr()
            };
            for (j, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the row has `WIDTH * lanes` floats; vectors are plain data.
                *sum = unsafe { row.wrapping_add(j * lanes).cast::<S::f32s>().read_unaligned() };
            }
        }
    }
    for p in 0..depth {
        let mut columns = [simd.splat_f32s(0.0); WIDTH];
        for (j, column) in columns.iter_mut().enumerate() {
            let right = right.wrapping_add(p * right_stride + j * lanes);
            // SAFETY: within the right side, by this function's contract.
            *column = unsafe { right.cast::<S::f32s>().read_unaligned() };
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: within the left side, by this function's contract.
            let x = unsafe { *left.wrapping_add(i * strides.0 + p * strides.1) };
            let x = simd.splat_f32s(x);
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = simd.mul_add_f32s(x, column, *sum);
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        let target = if whole {
            out[i * out_stride..i * out_stride + WIDTH * lanes].as_mut_ptr()
        } else {
            copy.as_mut_ptr()
        };
        for (j, sum) in sums.iter().enumerate() {
            // SAFETY: `target` has `WIDTH * lanes` floats.
            unsafe { target.wrapping_add(j * lanes).cast::<S::f32s>().write_unaligned(*sum) };
        }
        if !whole {
            out[i * out_stride..i * out_stride + cols].copy_from_slice(&copy[..cols]);
        }
    }
}
