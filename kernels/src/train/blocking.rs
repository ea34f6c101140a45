//! The order in which a large product is computed: in blocks that the caches hold.
//!
//! A part of the right side is packed by all threads into panels of [`PANEL`] columns, at most [`SHARED`] words, which the
//! last cache holds for all. A task then takes some rows of the left side, packs [`DEPTH`] words of each at a time, and
//! meets all panels with them (K. Goto, R. A. van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008).
//! Rows and columns are cut as the threads and caches suit, the inner index is walked in order, and what is summed so far
//! lies in the result: so the cuts decide who computes an entry and when, never how.

use std::slice::from_raw_parts_mut;

use rayon::prelude::*;

use crate::gemm::Matrix;
use crate::pages::Line;
use crate::scratch::Scratch;

/// Columns of a panel.
pub(crate) const PANEL: usize = 32;

/// Words along the inner index that a tile walks before it writes its sums: of 256, 512 and 1024 the fastest on Zen 5.
pub(crate) const DEPTH: usize = 512;

/// Panels that are packed together: where rows of the right side lie, so much of each is read at once.
const PANELS: usize = 8;

/// Distance of packed rows in words: off the powers of two that would share cache sets.
pub(crate) const LEFT_STRIDE: usize = DEPTH + WORDS;

/// Packed sides have room for whole steps of so many words along the inner index: a line.
pub(crate) const WORDS: usize = 16;

/// The packed left side has room for a whole number of so many rows.
pub(crate) const ROWS: usize = 32;

/// The most rows of a task: packed, less than half of the second-level cache.
const MOST_ROWS: usize = 192;

/// Rows from which on a task is worth its reading of the right side.
const FEWEST_ROWS: usize = 48;

/// The most words of the right side that are packed at once: 4 MiB.
const SHARED: usize = 1 << 20;

/// The most words along the inner index that are packed at once: what several tasks read of the left side, they still find
/// in the last cache.
const DEEP: usize = 1024;

/// Products with fewer multiply-adds than this stay on the calling thread.
const PARALLEL_FROM: usize = 1 << 18;

/// Right sides with fewer words than this are packed by the calling thread.
const PARALLEL_PACKING_FROM: usize = 1 << 15;

/// What lies packed: a plain number of 32 bits.
///
/// # Safety
///
/// All bits are a value.
pub(crate) unsafe trait Word: Copy + Send + Sync {}

// SAFETY: a number.
unsafe impl Word for f32 {}
// SAFETY: a number.
unsafe impl Word for u32 {}

/// How numbers are packed and multiplied.
pub(crate) trait Arithmetic: Copy + Sync {
    /// An entry, or some that follow each other along the inner index.
    type Word: Word;

    /// Entries in a word.
    const PER_WORD: usize;

    /// Rows of which a task should have a whole number.
    const TILE: usize;

    /// Packs rows of the left side, or leaves them where they lie.
    ///
    /// - `a`: `[rows, inner]`, at most [`DEPTH`] words deep; `words`: `[rows to whole ROWS, LEFT_STRIDE]`
    fn pack_left<'a>(self, a: Matrix<'a>, words: &'a mut [Self::Word]) -> Left<'a, Self::Word>;

    /// Packs panels; columns that the last one misses may become anything.
    ///
    /// - `b`: `[inner, cols]`; `words`: `[panels, inner to whole WORDS, PANEL]`
    fn pack_right(self, b: Matrix<'_>, words: &mut [Self::Word]);

    /// `out = left * panel`, or `out += left * panel`.
    fn multiply(self, block: Block<'_, Self::Word>);
}

/// Rows of the left side.
pub(crate) struct Left<'a, W> {
    pub(crate) words: &'a [W],
    /// How far rows, and words along the inner index, are apart.
    pub(crate) strides: (usize, usize),
}

/// One product of packed sides.
pub(crate) struct Block<'a, W> {
    pub(crate) left: &'a Left<'a, W>,
    /// `[depth to whole WORDS, PANEL]`
    pub(crate) panel: &'a [W],
    pub(crate) rows: usize,
    /// Words along the inner index.
    pub(crate) depth: usize,
    pub(crate) cols: usize,
    /// Rows of `cols` entries that start `out_stride` apart.
    pub(crate) out: &'a mut [f32],
    pub(crate) out_stride: usize,
    pub(crate) accumulate: bool,
}

/// `out = a * b`, or `out += a * b`.
///
/// # Panics
///
/// If the shapes disagree.
pub(super) fn product<A: Arithmetic>(
    arithmetic: A,
    a: Matrix<'_>,
    b: Matrix<'_>,
    out: &mut [f32],
    accumulate: bool,
) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(b.rows, k, "inner sides of a product");
    assert_eq!(out.len(), m * n, "product of {m} x {n}");
    if out.is_empty() {
        return;
    }
    if k == 0 {
        if !accumulate {
            out.fill(0.0);
        }
        return;
    }
    let threads = rayon::current_num_threads();
    let parallel = threads > 1 && m * n * k >= PARALLEL_FROM;
    // As many tasks for each thread as leave enough rows to make up for reading the right side again, but one at least.
    let tasks = threads * (m / (threads * FEWEST_ROWS)).clamp(1, 4);
    let rows = m.div_ceil(tasks).next_multiple_of(A::TILE).min(MOST_ROWS);
    let words = k.div_ceil(A::PER_WORD).next_multiple_of(WORDS);
    let deep = words.min(DEEP);
    let wide = (SHARED / deep).max(PANEL) / PANEL * PANEL;
    let mut right = Scratch::take(deep * wide.min(n.next_multiple_of(PANEL)) / WORDS);
    let right = words_mut::<A::Word>(&mut right);
    for j in (0..n).step_by(wide) {
        let cols = wide.min(n - j);
        for k0 in (0..k).step_by(deep * A::PER_WORD) {
            let inner = (deep * A::PER_WORD).min(k - k0);
            let words = inner.div_ceil(A::PER_WORD).next_multiple_of(WORDS);
            let right = &mut right[..words * cols.next_multiple_of(PANEL)];
            let b = b.part(k0, inner, j, cols);
            let packing = parallel && right.len() >= PARALLEL_PACKING_FROM;
            let panels = cols.div_ceil(PANEL);
            each(packing, right, panels * DEPTH * PANEL, |i, right| {
                let first = i * DEPTH * A::PER_WORD;
                let b = b.part(first, (DEPTH * A::PER_WORD).min(inner - first), 0, cols);
                each(packing, right, PANELS * (right.len() / panels), |i, right| {
                    let first = i * PANELS * PANEL;
                    let cols = (PANELS * PANEL).min(cols - first);
                    arithmetic.pack_right(b.part(0, b.rows, first, cols), right);
                });
            });
            each(parallel, out, rows * n, |chunk, out| {
                let a = a.part(chunk * rows, out.len() / n, k0, inner);
                let out = (&mut out[j..], n);
                row_block(arithmetic, a, right, cols, out, accumulate || k0 > 0);
            });
        }
    }
}

/// Some rows of the left side with all panels.
///
/// - `right`: for each [`DEPTH`] words of the inner index `[panels, depth, PANEL]`
fn row_block<A: Arithmetic>(
    arithmetic: A,
    a: Matrix<'_>,
    right: &[A::Word],
    cols: usize,
    (out, out_stride): (&mut [f32], usize),
    accumulate: bool,
) {
    let mut left = Scratch::take(a.rows.next_multiple_of(ROWS) * LEFT_STRIDE / WORDS);
    let left = words_mut::<A::Word>(&mut left);
    let words = a.cols.div_ceil(A::PER_WORD).next_multiple_of(WORDS);
    let panels = cols.div_ceil(PANEL);
    for (first, right) in (0..words).step_by(DEPTH).zip(right.chunks(panels * DEPTH * PANEL)) {
        let start = first * A::PER_WORD;
        let inner = (DEPTH * A::PER_WORD).min(a.cols - start);
        let left = &arithmetic.pack_left(a.part(0, a.rows, start, inner), left);
        for (panel, j) in right.chunks_exact(right.len() / panels).zip((0..cols).step_by(PANEL)) {
            arithmetic.multiply(Block {
                left,
                panel,
                rows: a.rows,
                depth: inner.div_ceil(A::PER_WORD),
                cols: PANEL.min(cols - j),
                out: &mut out[j..],
                out_stride,
                accumulate: accumulate || first > 0,
            });
        }
    }
}

/// Calls `body` with each part of `len` values (the last may be shorter), on all threads or on this one.
fn each<T: Send>(
    parallel: bool,
    values: &mut [T],
    len: usize,
    body: impl Fn(usize, &mut [T]) + Sync,
) {
    if parallel {
        values.par_chunks_mut(len).enumerate().for_each(|(i, part)| body(i, part));
    } else {
        values.chunks_mut(len).enumerate().for_each(|(i, part)| body(i, part));
    }
}

fn words_mut<W: Word>(lines: &mut [Line]) -> &mut [W] {
    const { assert!(size_of::<W>() * WORDS == size_of::<Line>()) };
    // SAFETY: a line is 16 words, aligned for any of them, and all bits are a value of both.
    unsafe { from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * WORDS) }
}
