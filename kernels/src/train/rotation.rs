//! Rows of one head gathered, and rotated where the model has rotary positions; gradients rotated back and scattered.

use crate::shared::Shared;
use crate::simd::simd;

/// Tables of the rotation, each `[seq, head_dim / 2]`.
#[derive(Debug, Clone, Copy)]
pub struct Rope<'a> {
    /// Cosines.
    pub cos: &'a [f32],
    /// Sines.
    pub sin: &'a [f32],
}

/// Copies `rows.len() / head_dim` rows from `place = (start, stride)` on.
pub(super) fn gather(
    x: &[f32],
    (start, stride): (usize, usize),
    head_dim: usize,
    rows: &mut [f32],
) {
    for (i, row) in rows.chunks_exact_mut(head_dim).enumerate() {
        row.copy_from_slice(&x[start + i * stride..][..head_dim]);
    }
}

simd! {
    /// [`gather`], rotated by position and scaled.
    pub(super) fn gather_rotated<'a>(
        x: &'a [f32],
        place: (usize, usize),
        rope: Option<Rope<'a>>,
        head_dim: usize,
        scale: f32,
        rows: &'a mut [f32],
    ) {
        for (i, row) in rows.chunks_exact_mut(head_dim).enumerate() {
            rotate(&x[place.0 + i * place.1..][..head_dim], i, rope, (1.0, scale), row);
        }
    }
}

/// One row rotated to its position, or back where `direction` is -1, and scaled.
#[inline(always)]
fn rotate(
    x: &[f32],
    position: usize,
    rope: Option<Rope<'_>>,
    (direction, scale): (f32, f32),
    out: &mut [f32],
) {
    /// Loops of a fixed length become vectors however narrow the head.
    const WIDTH: usize = 8;
    let Some(rope) = rope else {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * scale;
        }
        return;
    };
    let half = x.len() / 2;
    let (a, b) = x.split_at(half);
    let (cos, sin) = (&rope.cos[position * half..][..half], &rope.sin[position * half..][..half]);
    let (left, right) = out.split_at_mut(half);
    let turn = |a: f32, b: f32, cos: f32, sin: f32| {
        let sin = sin * direction;
        ((a * cos - b * sin) * scale, (b * cos + a * sin) * scale)
    };
    let whole = half - half % WIDTH;
    for start in (0..whole).step_by(WIDTH) {
        let block = start..start + WIDTH;
        let (a, b) = (&a[block.clone()], &b[block.clone()]);
        let (cos, sin) = (&cos[block.clone()], &sin[block.clone()]);
        let (left, right) = (&mut left[block.clone()], &mut right[block]);
        let mut pairs = [(0.0, 0.0); WIDTH];
        for j in 0..WIDTH {
            pairs[j] = turn(a[j], b[j], cos[j], sin[j]);
        }
        for j in 0..WIDTH {
            left[j] = pairs[j].0;
        }
        for j in 0..WIDTH {
            right[j] = pairs[j].1;
        }
    }
    for j in whole..half {
        (left[j], right[j]) = turn(a[j], b[j], cos[j], sin[j]);
    }
}

/// Writes rows of `head_dim`, the first at position `first`, to `place`, rotated back and scaled.
///
/// # Safety
///
/// Nobody else may hold those parts of `out`.
pub(super) unsafe fn scatter_rotated_back(
    rows: &[f32],
    head_dim: usize,
    first: usize,
    rope: Option<Rope<'_>>,
    scale: f32,
    out: &Shared<'_, f32>,
    (start, stride): (usize, usize),
) {
    for (i, row) in rows.chunks_exact(head_dim).enumerate() {
        // SAFETY: this function's contract.
        let out = unsafe { out.slice(start + i * stride, head_dim) };
        rotate_back(row, first + i, rope, scale, out);
    }
}

simd! {
    fn rotate_back<'a>(
        row: &'a [f32],
        position: usize,
        rope: Option<Rope<'a>>,
        scale: f32,
        out: &'a mut [f32],
    ) {
        rotate(row, position, rope, (-1.0, scale), out);
    }
}
