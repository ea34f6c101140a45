//! AVX-512 with products of bf16: AMD's processors since 2022 (Zen 4), Intel's server processors since 2021.
//!
//! `vdpbf16ps` adds to each of 16 sums the products of two pairs of bf16. A word is such a pair, two entries that follow each
//! other along the inner index: of the left side it is the same for all sums, of the right side a vector has 16 columns.

use std::arch::x86_64::*;

use crate::gemm::Matrix;
use crate::simd::prefetch;
use crate::train::blocking::{Arithmetic, Block, DEPTH, LEFT_STRIDE, Left, PANEL, ROWS, WORDS};

/// Entries in a word.
const PER_WORD: usize = 2;

/// Vectors in the width of a panel.
const WIDTH: usize = PANEL / WORDS;

/// Exists only where AVX-512 with bf16 was detected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Bf16(());

impl Avx512Bf16 {
    /// `None` if this CPU lacks it.
    pub(crate) fn new() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16");
        found.then_some(Self(()))
    }
}

impl Arithmetic for Avx512Bf16 {
    type Word = u32;

    const PER_WORD: usize = PER_WORD;

    const TILE: usize = 8;

    fn pack_left<'a>(self, a: Matrix<'a>, words: &'a mut [u32]) -> Left<'a, u32> {
        check_left(a.rows, a.cols.div_ceil(PER_WORD), words);
        // SAFETY: `self` is proof of the instructions; the rows, in whole sixteens, and their words have room.
        unsafe { pack(a, Order::Rows, words.as_mut_ptr(), LEFT_STRIDE) };
        Left { words, strides: (LEFT_STRIDE, 1) }
    }

    fn pack_right(self, b: Matrix<'_>, words: &mut [u32]) {
        let depth = b.rows.div_ceil(PER_WORD).next_multiple_of(WORDS);
        assert!(words.len() >= depth * b.cols.next_multiple_of(PANEL), "room for the panels");
        // SAFETY: `self` is proof of the instructions; panels have room for whole squares.
        unsafe { pack(b.transposed(), Order::Columns, words.as_mut_ptr(), depth * PANEL) };
    }

    fn multiply(self, block: Block<'_, u32>) {
        let Block { left, panel, rows, depth, cols, out, out_stride, accumulate } = block;
        assert_eq!(left.strides, (LEFT_STRIDE, 1), "rows as they were packed");
        check_left(rows, depth, left.words);
        assert!(cols <= PANEL && panel.len() >= depth * PANEL, "columns as they were packed");
        assert!(rows == 0 || out.len() >= (rows - 1) * out_stride + cols, "room for the product");
        let mut i = 0;
        while i < rows {
            let left = &left.words[i * LEFT_STRIDE..];
            let out = &mut out[i * out_stride..];
            macro_rules! tile {
                ($rows:literal) => {{
                    // SAFETY: `self` is proof of the instructions; so many rows are left, and lengths were checked.
                    unsafe { tile::<$rows>(left, panel, depth, cols, out, out_stride, accumulate) };
                    $rows
                }};
            }
            i += match rows - i {
                8.. => tile!(8),
                4.. => tile!(4),
                2.. => tile!(2),
                _ => tile!(1),
            };
        }
    }
}

fn check_left(rows: usize, depth: usize, words: &[u32]) {
    let rows = rows.next_multiple_of(ROWS);
    assert!(depth <= DEPTH && words.len() >= rows * LEFT_STRIDE, "room for the left side");
}

/// A tile of `R` rows and a panel, of which the first `cols` columns are kept.
///
/// # Safety
///
/// The CPU has the instructions. `left` has `R` rows of `depth` words, `panel` as many rows, `out` `R` rows of `cols` entries.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn tile<const R: usize>(
    left: &[u32],
    panel: &[u32],
    depth: usize,
    cols: usize,
    out: &mut [f32],
    out_stride: usize,
    accumulate: bool,
) {
    let masks: [__mmask16; WIDTH] = std::array::from_fn(|j| mask(cols, j * WORDS));
    let (left, panel, out) = (left.as_ptr(), panel.as_ptr(), out.as_mut_ptr());
    // The result comes from memory while the sums are made: without, stores of a large one wait in turn.
    for i in 0..R {
        for j in [0, WORDS, cols - 1] {
            prefetch(out.wrapping_add(i * out_stride + j));
        }
    }
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; R];
    if accumulate {
        for (i, sums) in sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                let out = out.wrapping_add(i * out_stride + j * WORDS);
                // SAFETY: of the row's columns those that it has, by the mask.
                *sum = unsafe { _mm512_maskz_loadu_ps(masks[j], out) };
            }
        }
    }
    for p in 0..depth {
        let columns: [__m512bh; WIDTH] = std::array::from_fn(|j| {
            // SAFETY: a row of the panel; its bits are a pair for each column.
            unsafe { bf16(_mm512_loadu_epi32(panel.add(p * PANEL + j * WORDS).cast())) }
        });
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: a word of the left side.
            let pair = bf16(_mm512_set1_epi32(unsafe { *left.add(i * LEFT_STRIDE + p) } as i32));
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = _mm512_dpbf16_ps(*sum, pair, column);
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        for (j, sum) in sums.into_iter().enumerate() {
            let out = out.wrapping_add(i * out_stride + j * WORDS);
            // SAFETY: of the row's columns those that it has, by the mask.
            unsafe { _mm512_mask_storeu_ps(out, masks[j], sum) };
        }
    }
}

/// What each vector of a packed side holds: 16 words of a row, or a word of 16 rows.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Rows,
    Columns,
}

/// Rounds a matrix to words, in squares of 16: rows `stride` apart, or with [`Order::Columns`] panels of [`PANEL`] rows
/// `stride` apart, `[words, PANEL]` each. What a square has beyond the matrix becomes zeros.
///
/// # Safety
///
/// The CPU has the instructions, and `to` has room for whole squares.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack(x: Matrix<'_>, wanted: Order, to: *mut u32, stride: usize) {
    let lies = if x.col_stride == 1 { Order::Rows } else { Order::Columns };
    assert!(x.col_stride == 1 || x.row_stride == 1, "by rows or by columns");
    let square = |row, word| {
        let mut square = match lies {
            Order::Rows => rows_of_square(x, row, word * PER_WORD),
            Order::Columns => columns_of_square(x, row, word * PER_WORD),
        };
        if lies != wanted {
            square = transpose(square);
        }
        let (start, step) = match wanted {
            Order::Rows => (row * stride + word, stride),
            Order::Columns => (row / PANEL * stride + row % PANEL + word * PANEL, PANEL),
        };
        for (i, vector) in square.into_iter().enumerate() {
            // SAFETY: within a whole square.
            unsafe { _mm512_storeu_epi32(to.wrapping_add(start + i * step).cast(), vector) };
        }
    };
    let words = (0..x.cols.div_ceil(PER_WORD)).step_by(WORDS);
    let rows = (0..x.rows).step_by(WORDS);
    // Along what lies together, so that the pages of a square serve the next.
    match lies {
        Order::Rows => rows.for_each(|row| words.clone().for_each(|word| square(row, word))),
        Order::Columns => words.for_each(|word| rows.clone().for_each(|row| square(row, word))),
    }
}

/// Vector `i` has 16 words of row `row + i`, from column `col` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn rows_of_square(x: Matrix<'_>, row: usize, col: usize) -> [__m512i; WORDS] {
    let masks = [mask(x.cols, col), mask(x.cols, col + WORDS)];
    std::array::from_fn(|i| {
        let masks = if row + i < x.rows { masks } else { [0; 2] };
        let from = x.from(row + i, col);
        // SAFETY: entries of the matrix, by the masks.
        let [low, high] = unsafe {
            [
                _mm512_maskz_loadu_ps(masks[0], from),
                _mm512_maskz_loadu_ps(masks[1], from.wrapping_add(WORDS)),
            ]
        };
        integers(_mm512_cvtne2ps_pbh(high, low))
    })
}

/// Vector `i` has a word of 16 rows: columns `col + 2 i` and the next, from row `row` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn columns_of_square(x: Matrix<'_>, row: usize, col: usize) -> [__m512i; WORDS] {
    /// The first half beside the second, entry by entry.
    const INTERLEAVED: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        order
    };
    // SAFETY: 32 numbers of 16 bits.
    let order = unsafe { _mm512_loadu_epi16(INTERLEAVED.as_ptr().cast()) };
    let some = mask(x.rows, row);
    std::array::from_fn(|i| {
        let [low, high] = [0, 1].map(|odd| {
            let col = col + PER_WORD * i + odd;
            let some = if col < x.cols { some } else { 0 };
            // Of the next square below: what is a line of each column is no stream that the CPU sees.
            prefetch(x.from(row, col + PER_WORD * WORDS));
            // SAFETY: entries of the matrix, by the mask.
            unsafe { _mm512_maskz_loadu_ps(some, x.from(row, col)) }
        });
        _mm512_permutexvar_epi16(order, integers(_mm512_cvtne2ps_pbh(high, low)))
    })
}

/// Exchanges rows and columns of a square of words.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; WORDS]) -> [__m512i; WORDS] {
    // Within quarters of the vectors first, pairs and then pairs of pairs; then the quarters.
    let mut x = rows;
    for i in (0..WORDS).step_by(2) {
        (x[i], x[i + 1]) = (
            _mm512_unpacklo_epi32(rows[i], rows[i + 1]),
            _mm512_unpackhi_epi32(rows[i], rows[i + 1]),
        );
    }
    let mut y = x;
    for i in (0..WORDS).step_by(4) {
        y[i] = _mm512_unpacklo_epi64(x[i], x[i + 2]);
        y[i + 1] = _mm512_unpackhi_epi64(x[i], x[i + 2]);
        y[i + 2] = _mm512_unpacklo_epi64(x[i + 1], x[i + 3]);
        y[i + 3] = _mm512_unpackhi_epi64(x[i + 1], x[i + 3]);
    }
    // Now quarter `q` of `y[4 g + c]` is column `4 q + c` of rows `4 g` to `4 g + 3`.
    let mut z = y;
    for c in 0..4 {
        let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(y[c], y[c + 4]);
        let odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(y[c], y[c + 4]);
        let even_after = _mm512_shuffle_i32x4::<0b10_00_10_00>(y[c + 8], y[c + 12]);
        let odd_after = _mm512_shuffle_i32x4::<0b11_01_11_01>(y[c + 8], y[c + 12]);
        z[c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even, even_after);
        z[c + 8] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even, even_after);
        z[c + 4] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd, odd_after);
        z[c + 12] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd, odd_after);
    }
    z
}

/// Which of 16 entries from `first` on are among the first `len`.
#[inline(always)]
fn mask(len: usize, first: usize) -> __mmask16 {
    ((1_u32 << len.saturating_sub(first).min(WORDS)) - 1) as __mmask16
}

#[inline(always)]
fn bf16(words: __m512i) -> __m512bh {
    // SAFETY: 64 bytes whose bits are values of both.
    unsafe { std::mem::transmute(words) }
}

#[inline(always)]
fn integers(pairs: __m512bh) -> __m512i {
    // SAFETY: 64 bytes whose bits are values of both.
    unsafe { std::mem::transmute(pairs) }
}
