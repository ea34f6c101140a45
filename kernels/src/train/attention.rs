//! Causal attention, with rotary positions where the model has them, forward and backward, without the matrix of all scores.
//!
//! One task does one batch entry and one key/value head with all its query heads: it gathers and rotates them into
//! contiguous scratch, then walks tiles of 32 queries against the keys up to the diagonal. A tile's scores stay in
//! cache; the forward pass keeps only the log-sum-exp of each row, from which the backward pass recomputes the
//! probabilities (arXiv:2205.14135). Gradients of a shared key/value head are summed inside its task, in order.

use rayon::prelude::*;

use super::gemm::{Matrix, with_scratch};
pub use super::rotation::Rope;
use super::rotation::{gather, gather_rotated, scatter_rotated_back};
use crate::exp::exp;
use crate::gemm::Block;
use crate::shared::Shared;
use crate::simd::{LANES, arch, max, simd, sum};

/// Queries in one tile: 32 rows of 256 scores are 32 KiB.
const TILE: usize = 32;

/// The sizes of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Tokens in each.
    pub seq: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; each serves `heads / key_value_heads` query heads in a row.
    pub key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Entries of `q` and of the result: `[batch * seq, heads * head_dim]`.
    pub fn q_len(&self) -> usize {
        self.entries(self.heads)
    }

    /// Entries of `k` and of `v`: `[batch * seq, key_value_heads * head_dim]`.
    pub fn kv_len(&self) -> usize {
        self.entries(self.key_value_heads)
    }

    /// Checked, since sizes that wrap could pass for those of a small slice.
    fn entries(&self, heads: usize) -> usize {
        let sizes = [self.batch, self.seq, heads, self.head_dim];
        let product = sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        product.expect("as many entries as memory can hold")
    }

    /// Entries of the log-sum-exps: `[batch, heads, seq]`.
    pub fn lse_len(&self) -> usize {
        self.batch * self.heads * self.seq
    }

    fn check(&self, q: &[f32], k: &[f32], v: &[f32], rope: Option<Rope<'_>>) {
        assert!(
            self.key_value_heads > 0 && self.heads.is_multiple_of(self.key_value_heads),
            "heads in groups"
        );
        assert_eq!(q.len(), self.q_len(), "q");
        assert_eq!(k.len(), self.kv_len(), "k");
        assert_eq!(v.len(), self.kv_len(), "v");
        if let Some(Rope { cos, sin }) = rope {
            let table = self.seq * self.head_dim / 2;
            assert!(self.head_dim.is_multiple_of(2), "rotation needs pairs");
            assert!(cos.len() == table && sin.len() == table, "rotary tables");
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Columns of a row of scores in scratch: whole tiles, and off the powers of two that would share cache sets.
    fn keys_stride(&self) -> usize {
        self.seq.next_multiple_of(TILE) + LANES
    }

    /// Where head `head` of `of` starts in the first row of batch entry `batch`, and the distance of rows.
    fn rows(&self, batch: usize, head: usize, of: usize) -> (usize, usize) {
        let stride = of * self.head_dim;
        (batch * self.seq * stride + head * self.head_dim, stride)
    }
}

/// `softmax(rope(q) rope(k)^T / sqrt(head_dim)) v` over the keys up to each query, rotation half-split (pairs `i` and
/// `i + head_dim / 2`, arXiv:2104.09864), or none without `rope`.
///
/// # Shapes
///
/// - `q`, `out`: `[batch * seq, heads * head_dim]`
/// - `k`, `v`: `[batch * seq, key_value_heads * head_dim]`
/// - `lse`: `[batch, heads, seq]`, the log-sum-exp of each row of scores, for the backward pass
///
/// # Panics
///
/// If the shapes disagree.
pub fn attention(
    shape: AttentionShape,
    [q, k, v]: [&[f32]; 3],
    rope: Option<Rope<'_>>,
    out: &mut [f32],
    lse: &mut [f32],
) {
    shape.check(q, k, v, rope);
    assert_eq!(out.len(), q.len(), "out");
    assert_eq!(lse.len(), shape.lse_len(), "lse");
    let AttentionShape { seq, heads, key_value_heads, head_dim, .. } = shape;
    if out.is_empty() {
        return;
    }
    let (group, stride) = (heads / key_value_heads, shape.keys_stride());
    let out = Shared::new(out);
    lse.par_chunks_mut(group * seq).enumerate().for_each(|(task, lse)| {
        let (batch, kv_head) = (task / key_value_heads, task % key_value_heads);
        let sizes = [seq * head_dim, head_dim * stride, TILE * stride, TILE * head_dim, TILE];
        with_parts(sizes, |[rows, keys, scores, tile, inverse]| {
            let place = shape.rows(batch, kv_head, key_value_heads);
            gather_rotated(k, place, rope, head_dim, 1.0, rows);
            transpose(rows, head_dim, stride, keys);
            let (start, step) = place;
            let values = Matrix::strided(&v[start..], seq, head_dim, step);
            for (head, lse) in lse.chunks_exact_mut(seq).enumerate() {
                let place = shape.rows(batch, kv_head * group + head, heads);
                gather_rotated(q, place, rope, head_dim, shape.scale(), rows);
                for (first, lse) in (0..seq).step_by(TILE).zip(lse.chunks_mut(TILE)) {
                    let (count, end) = (lse.len(), first + lse.len());
                    let queries = &rows[first * head_dim..end * head_dim];
                    scores_of(queries, keys, head_dim, stride, first + TILE, scores);
                    softmax(scores, stride, first, lse, inverse);
                    arch().dispatch(Block {
                        a: Matrix::strided(scores, count, end, stride),
                        b: values.first_rows(end),
                        out: tile,
                        out_stride: head_dim,
                        accumulate: false,
                    });
                    let (start, step) = place;
                    for (i, tile) in tile.chunks_exact(head_dim).take(count).enumerate() {
                        // SAFETY: this task alone writes this head's columns of this batch entry's rows.
                        let out = unsafe { out.slice(start + (first + i) * step, head_dim) };
                        for (out, tile) in out.iter_mut().zip(tile) {
                            *out = tile * inverse[i];
                        }
                    }
                }
            }
        });
    });
}

/// What the backward pass of [`attention`] reads besides its inputs.
#[derive(Debug, Clone, Copy)]
pub struct Saved<'a> {
    /// The forward pass's result, `[batch * seq, heads * head_dim]`.
    pub out: &'a [f32],
    /// The forward pass's log-sum-exps, `[batch, heads, seq]`.
    pub lse: &'a [f32],
}

/// The gradients of [`attention`] in its inputs: with probabilities `p`, `dp = dout v^T` and
/// `ds = p * (dp - rowsum(dout * out))`: `dv = p^T dout`, `dq = ds k`, `dk = ds^T q`, rotated back.
///
/// # Shapes
///
/// - `q`, `dout`, `dq`: `[batch * seq, heads * head_dim]`
/// - `k`, `v`, `dk`, `dv`: `[batch * seq, key_value_heads * head_dim]`
///
/// # Panics
///
/// If the shapes disagree.
pub fn attention_backward(
    shape: AttentionShape,
    [q, k, v]: [&[f32]; 3],
    rope: Option<Rope<'_>>,
    saved: Saved<'_>,
    dout: &[f32],
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    shape.check(q, k, v, rope);
    assert!(saved.out.len() == q.len() && saved.lse.len() == shape.lse_len(), "saved");
    assert!(dout.len() == q.len() && dq.len() == q.len(), "dq");
    assert!(dk.len() == k.len() && dv.len() == v.len(), "dk, dv");
    let AttentionShape { batch, seq, heads, key_value_heads, head_dim } = shape;
    if q.is_empty() {
        return;
    }
    let (group, stride) = (heads / key_value_heads, shape.keys_stride());
    let (dq, dk, dv) = (Shared::new(dq), Shared::new(dk), Shared::new(dv));
    (0..batch * key_value_heads).into_par_iter().for_each(|task| {
        let (batch, kv_head) = (task / key_value_heads, task % key_value_heads);
        let (whole, wide) = (seq * head_dim, head_dim * stride);
        let (scores, tile) = (TILE * stride, TILE * head_dim);
        let sizes = [whole, whole, wide, wide, whole, whole, scores, scores, tile, tile, TILE];
        with_parts(sizes, |parts| {
            let [queries, rows, keys, values, dkeys, dvalues, p, ds, dtile, dqueries, delta] =
                parts;
            let kv_place = shape.rows(batch, kv_head, key_value_heads);
            gather(v, kv_place, head_dim, rows);
            transpose(rows, head_dim, stride, values);
            gather_rotated(k, kv_place, rope, head_dim, 1.0, rows);
            transpose(rows, head_dim, stride, keys);
            dkeys.fill(0.0);
            dvalues.fill(0.0);
            for head in kv_head * group..(kv_head + 1) * group {
                let place = shape.rows(batch, head, heads);
                gather_rotated(q, place, rope, head_dim, shape.scale(), queries);
                let lse = &saved.lse[(batch * heads + head) * seq..][..seq];
                for (first, lse) in (0..seq).step_by(TILE).zip(lse.chunks(TILE)) {
                    let (count, end) = (lse.len(), first + lse.len());
                    let queries = &queries[first * head_dim..end * head_dim];
                    let place = (place.0 + first * place.1, place.1);
                    let dtile = &mut dtile[..count * head_dim];
                    gather(dout, place, head_dim, dtile);
                    row_dots(saved.out, place, head_dim, dtile, delta);
                    scores_of(queries, keys, head_dim, stride, first + TILE, p);
                    scores_of(dtile, values, head_dim, stride, first + TILE, ds);
                    softmax_gradient(p, ds, stride, first, lse, delta);
                    let (p, ds) = (
                        Matrix::strided(p, count, end, stride),
                        Matrix::strided(ds, count, end, stride),
                    );
                    let products = [
                        (p.transposed(), &*dtile, count, &mut *dvalues, true),
                        (ds.transposed(), queries, count, &mut *dkeys, true),
                        (ds, &*rows, end, &mut *dqueries, false),
                    ];
                    for (a, b, inner, out, accumulate) in products {
                        let b = Matrix::strided(b, inner, head_dim, head_dim);
                        arch().dispatch(Block { a, b, out, out_stride: head_dim, accumulate });
                    }
                    let dqueries = &dqueries[..count * head_dim];
                    // SAFETY: this task alone writes the columns of this group of query heads.
                    unsafe {
                        scatter_rotated_back(
                            dqueries,
                            head_dim,
                            first,
                            rope,
                            shape.scale(),
                            &dq,
                            place,
                        );
                    }
                }
            }
            // SAFETY: this task alone writes the columns of this key/value head.
            unsafe {
                scatter_rotated_back(dkeys, head_dim, 0, rope, 1.0, &dk, kv_place);
                for (i, row) in dvalues.chunks_exact(head_dim).enumerate() {
                    dv.slice(kv_place.0 + i * kv_place.1, head_dim).copy_from_slice(row);
                }
            }
        });
    });
}

/// Lends consecutive parts of the thread's scratch; their values are unspecified.
fn with_parts<const N: usize>(sizes: [usize; N], body: impl FnOnce([&mut [f32]; N])) {
    with_scratch(sizes.iter().sum(), |mut rest| {
        body(sizes.map(|size| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(size);
            rest = tail;
            part
        }));
    });
}

/// `out = queries * keys` for keys `0..end`, where `keys` is `[head_dim, stride]` and `end <= stride`.
fn scores_of(
    queries: &[f32],
    keys: &[f32],
    head_dim: usize,
    stride: usize,
    end: usize,
    out: &mut [f32],
) {
    arch().dispatch(Block {
        a: Matrix::new(queries, queries.len() / head_dim, head_dim),
        b: Matrix::strided(keys, head_dim, end, stride),
        out,
        out_stride: stride,
        accumulate: false,
    });
}

/// `out[d][i] = rows[i][d]` with rows of `out` `stride` long; columns past the last row become 0.
fn transpose(rows: &[f32], head_dim: usize, stride: usize, out: &mut [f32]) {
    let seq = rows.len() / head_dim;
    for (d, out) in out.chunks_exact_mut(stride).enumerate() {
        for (i, out) in out[..seq].iter_mut().enumerate() {
            *out = rows[i * head_dim + d];
        }
        out[seq..].fill(0.0);
    }
}

simd! {
    /// `dots[i]` = row `i` of `x` (at `place`) times row `i` of `rows`.
    fn row_dots<'a>(
        x: &'a [f32],
        place: (usize, usize),
        head_dim: usize,
        rows: &'a [f32],
        dots: &'a mut [f32],
    ) {
        for (i, (row, dot)) in rows.chunks_exact(head_dim).zip(dots).enumerate() {
            let x = &x[place.0 + i * place.1..][..head_dim];
            *dot = sum([x, row], |[x, row]| x * row);
        }
    }
}

simd! {
    /// Turns rows of scores into `e^(score - max)`, 0 past the diagonal; `inverse` gets one over each row's sum.
    fn softmax<'a>(
        scores: &'a mut [f32],
        stride: usize,
        first: usize,
        lse: &'a mut [f32],
        inverse: &'a mut [f32],
    ) {
        for (i, (lse, inverse)) in lse.iter_mut().zip(inverse).enumerate() {
            let row = row_of_scores(scores, stride, first, i);
            let max = max(row);
            for score in row.iter_mut() {
                *score = exp(*score - max);
            }
            let total = sum([row], |[p]| p);
            *inverse = 1.0 / total;
            *lse = max + total.ln();
        }
    }
}

simd! {
    /// From scores and `dp` makes probabilities, in place of the scores, and `p * (dp - delta)`, in place of `dp`.
    fn softmax_gradient<'a>(
        scores: &'a mut [f32],
        dp: &'a mut [f32],
        stride: usize,
        first: usize,
        lse: &'a [f32],
        delta: &'a [f32],
    ) {
        for (i, (lse, delta)) in lse.iter().zip(delta).enumerate() {
            let row = row_of_scores(scores, stride, first, i);
            for (p, ds) in row.iter_mut().zip(&mut dp[i * stride..]) {
                *p = exp(*p - lse);
                *ds = *p * (*ds - delta);
            }
        }
    }
}

/// Row `i` of a tile, whole vectors of it; scores past the diagonal become minus infinity, whose exponential is 0.
#[inline(always)]
fn row_of_scores(scores: &mut [f32], stride: usize, first: usize, i: usize) -> &mut [f32] {
    let row = &mut scores[i * stride..][..first + TILE];
    row[first + i + 1..].fill(f32::NEG_INFINITY);
    row
}
