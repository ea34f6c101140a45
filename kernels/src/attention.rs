//! What queries read from the keys and values of a head, one exact order of sums for one query and for many.
//!
//! Keys lie in blocks of [`LANES`] tokens, `[head_dim, LANES]` each, so that a vector holds one coordinate of all keys of a
//! block: a score is a sum along the coordinates, without one across a vector. Values lie row by row. Queries are taken
//! four together, which reads keys and values once for all of them; each has the sums that it would have alone.

use crate::simd::{LANES, simd};
use crate::softmax::softmax;

/// Tokens of a block of keys.
pub const BLOCK: usize = LANES;

/// Queries that are taken together.
const QUERIES: usize = 4;

/// Vectors of a value's coordinates that are summed together.
const COLUMNS: usize = 4;

/// Writes a token's key where it belongs.
///
/// # Shapes
///
/// - `keys`: `[blocks, head_dim, BLOCK]`; `key`: `[head_dim]`
///
/// # Panics
///
/// If there is no block for it.
pub fn write_key(keys: &mut [f32], token: usize, key: &[f32]) {
    let block = &mut keys[token / BLOCK * BLOCK * key.len()..][..BLOCK * key.len()];
    for (lanes, &value) in block.chunks_exact_mut(BLOCK).zip(key) {
        lanes[token % BLOCK] = value;
    }
}

/// `softmax(q k^T / sqrt(head_dim)) v` for queries of which each sees a number of the first tokens.
///
/// `scratch` is grown as needed.
///
/// # Shapes
///
/// - `q`, `out`: `[queries, head_dim]`; `seen`: `[queries]`, none less than the one before
/// - `keys`: `[blocks, head_dim, BLOCK]`; `values`: `[tokens, head_dim]`
///
/// # Panics
///
/// If the shapes do not fit.
pub fn attend(
    q: &[f32],
    seen: &[usize],
    keys: &[f32],
    values: &[f32],
    out: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    if seen.is_empty() {
        return;
    }
    let head_dim = q.len() / seen.len();
    assert!(q.len() == out.len() && q.len() == seen.len() * head_dim, "queries");
    let scale = 1.0 / (head_dim as f32).sqrt();
    let size = QUERIES * head_dim;
    for ((q, out), seen) in q.chunks(size).zip(out.chunks_mut(size)).zip(seen.chunks(QUERIES)) {
        let most = seen[seen.len() - 1];
        assert!(seen.is_sorted(), "later queries see no less");
        let stride = most.next_multiple_of(BLOCK);
        assert!(values.len() >= most * head_dim && keys.len() >= stride * head_dim, "tokens");
        scratch.resize(QUERIES * stride, 0.0);
        let scores = &mut scratch[..seen.len() * stride];
        // A last few are taken one by one.
        let together = if seen.len() == QUERIES { QUERIES } else { 1 };
        let rows = q.chunks(together * head_dim).zip(scores.chunks_mut(together * stride));
        rows.for_each(|(q, scores)| match together {
            1 => score_one(q, keys, scale, scores),
            _ => score_four(q, keys, scale, scores),
        });
        for (scores, &seen) in scores.chunks_mut(stride).zip(seen) {
            softmax(&mut scores[..seen]);
        }
        let rows = out.chunks_mut(together * head_dim).zip(scores.chunks(together * stride));
        for ((out, scores), seen) in rows.zip(seen.chunks(together)) {
            match together {
                1 => mix_one(scores, seen, values, out),
                _ => mix_four(scores, seen, values, out),
            }
        }
    }
}

macro_rules! for_queries {
    ($queries:literal: $score:ident, $mix:ident, $blocks:literal) => {
        simd! {
            fn $score<'a>(q: &'a [f32], keys: &'a [f32], scale: f32, scores: &'a mut [f32]) {
                scores_of::<$queries, $blocks>(q, keys, scale, scores);
            }
        }

        simd! {
            fn $mix<'a>(weights: &'a [f32], seen: &'a [usize], values: &'a [f32], out: &'a mut [f32]) {
                mix_of::<$queries>(weights, seen, values, out);
            }
        }
    };
}

// As many sums at once as hide the latency of one.
for_queries!(1: score_one, mix_one, 8);
for_queries!(4: score_four, mix_four, 4);

/// # Shapes
///
/// - `q`: `[Q, head_dim]`; `keys`: `[blocks, head_dim, BLOCK]`, or more; `scores`: `[Q, blocks, BLOCK]`
#[inline(always)]
fn scores_of<const Q: usize, const B: usize>(
    q: &[f32],
    keys: &[f32],
    scale: f32,
    scores: &mut [f32],
) {
    let (head_dim, stride) = (q.len() / Q, scores.len() / Q);
    let mut token = 0;
    while token + B * BLOCK <= stride {
        scores_of_blocks::<Q, B>(q, &keys[token * head_dim..], scale, stride, &mut scores[token..]);
        token += B * BLOCK;
    }
    while token < stride {
        scores_of_blocks::<Q, 1>(q, &keys[token * head_dim..], scale, stride, &mut scores[token..]);
        token += BLOCK;
    }
}

#[inline(always)]
fn scores_of_blocks<const Q: usize, const B: usize>(
    q: &[f32],
    keys: &[f32],
    scale: f32,
    stride: usize,
    scores: &mut [f32],
) {
    let head_dim = q.len() / Q;
    let q: [&[f32]; Q] = std::array::from_fn(|i| &q[i * head_dim..][..head_dim]);
    let keys: [&[[f32; BLOCK]]; B] = std::array::from_fn(|b| {
        &keys[b * BLOCK * head_dim..][..BLOCK * head_dim].as_chunks::<BLOCK>().0[..head_dim]
    });
    let mut sums = [[[0.0; BLOCK]; B]; Q];
    for d in 0..head_dim {
        for (sums, q) in sums.iter_mut().zip(q) {
            for (sums, keys) in sums.iter_mut().zip(keys) {
                for (sum, key) in sums.iter_mut().zip(keys[d]) {
                    *sum = key.mul_add(q[d], *sum);
                }
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        let scores = &mut scores[i * stride..][..B * BLOCK];
        for (score, sum) in scores.iter_mut().zip(sums.as_flattened()) {
            *score = sum * scale;
        }
    }
}

/// # Shapes
///
/// - `weights`: `[Q, stride]`; `seen`: `[Q]`; `values`: `[tokens, head_dim]`, or more; `out`: `[Q, head_dim]`
#[inline(always)]
fn mix_of<const Q: usize>(weights: &[f32], seen: &[usize], values: &[f32], out: &mut [f32]) {
    let head_dim = out.len() / Q;
    let mut column = 0;
    while column + COLUMNS * LANES <= head_dim {
        mix_columns::<Q, COLUMNS>(weights, seen, values, column, out);
        column += COLUMNS * LANES;
    }
    while column + LANES <= head_dim {
        mix_columns::<Q, 1>(weights, seen, values, column, out);
        column += LANES;
    }
    let stride = weights.len() / Q;
    for column in column..head_dim {
        for (i, &seen) in seen.iter().enumerate() {
            let values = values.iter().skip(column).step_by(head_dim);
            let pairs = weights[i * stride..][..seen].iter().zip(values);
            out[i * head_dim + column] =
                pairs.fold(0.0, |sum, (weight, v)| v.mul_add(*weight, sum));
        }
    }
}

#[inline(always)]
fn mix_columns<const Q: usize, const C: usize>(
    weights: &[f32],
    seen: &[usize],
    values: &[f32],
    column: usize,
    out: &mut [f32],
) {
    let (head_dim, stride) = (out.len() / Q, weights.len() / Q);
    let weights: [&[f32]; Q] = std::array::from_fn(|i| &weights[i * stride..][..seen[i]]);
    // All see what the first does.
    let common = seen[0];
    let shared: [&[f32]; Q] = std::array::from_fn(|i| &weights[i][..common]);
    let mut sums = [[[0.0; LANES]; C]; Q];
    for s in 0..common {
        let value = &values[s * head_dim + column..][..C * LANES].as_chunks::<LANES>().0[..C];
        for (sums, weights) in sums.iter_mut().zip(shared) {
            for (sums, value) in sums.iter_mut().zip(value) {
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = value.mul_add(weights[s], *sum);
                }
            }
        }
    }
    for (sums, weights) in sums.iter_mut().zip(weights) {
        for (s, &weight) in weights.iter().enumerate().skip(common) {
            let value = &values[s * head_dim + column..][..C * LANES];
            for (sum, value) in sums.as_flattened_mut().iter_mut().zip(value) {
                *sum = value.mul_add(weight, *sum);
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        out[i * head_dim + column..][..C * LANES].copy_from_slice(sums.as_flattened());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize) -> f32 {
        ((n.wrapping_mul(2_654_435_761) >> 7) % 2_001) as f32 / 1_000.0 - 1.0
    }

    fn cache(tokens: usize, head_dim: usize) -> (Vec<f32>, Vec<f32>) {
        let mut keys = vec![f32::NAN; tokens.next_multiple_of(BLOCK) * head_dim];
        for t in 0..tokens {
            let key: Vec<f32> = (0..head_dim).map(|d| noise(t * head_dim + d)).collect();
            write_key(&mut keys, t, &key);
        }
        (keys, (0..tokens * head_dim).map(|i| noise(i + 1_000_003)).collect())
    }

    #[test]
    fn is_the_formula_alone_and_together() {
        for head_dim in [2, 16, 24, 64, 80, 130] {
            for first in [1, 15, 64, 133] {
                let queries = 7;
                let tokens = first + queries - 1;
                let (keys, values) = cache(tokens, head_dim);
                let q: Vec<f32> = (0..queries * head_dim).map(|i| noise(i + 77)).collect();
                let seen: Vec<usize> = (first..first + queries).collect();
                let mut out = vec![0.0; q.len()];
                attend(&q, &seen, &keys, &values, &mut out, &mut Vec::new());
                for (i, &seen) in seen.iter().enumerate() {
                    let q = &q[i * head_dim..][..head_dim];
                    let mut alone = vec![0.0; head_dim];
                    attend(q, &[seen], &keys, &values, &mut alone, &mut vec![0.5; 3]);
                    assert_eq!(alone, out[i * head_dim..][..head_dim], "query {i}");
                    let key = |t: usize, d: usize| f64::from(noise(t * head_dim + d));
                    let score = |t: usize| -> f64 {
                        let sum: f64 = (0..head_dim).map(|d| key(t, d) * f64::from(q[d])).sum();
                        (sum / (head_dim as f64).sqrt()).exp()
                    };
                    let total: f64 = (0..seen).map(score).sum();
                    for (d, &found) in alone.iter().enumerate() {
                        let value = |t: usize| f64::from(values[t * head_dim + d]);
                        let expected = (0..seen).map(|t| score(t) / total * value(t)).sum::<f64>();
                        assert!((expected - f64::from(found)).abs() < 2e-6, "{head_dim} {seen}");
                    }
                }
            }
        }
    }
}
