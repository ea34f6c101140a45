//! What queries read from the keys and values of a head.
//!
//! Keys lie in blocks of [`BLOCK`] tokens, `[head_dim, BLOCK]` each: a vector holds one coordinate of many keys, and a score
//! is a sum along the coordinates, without one across a vector. Values lie row by row. So both products are those of
//! matrices, whose every entry has the sum that it would have alone: a query reads the same beside others.

use crate::gemm::{Block, Matrix};
use crate::simd::{arch, simd};
use crate::softmax::softmax;

/// Tokens of a block of keys.
pub const BLOCK: usize = 64;

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
/// # Shapes
///
/// - `q`, `out`: `[queries, head_dim]`; `seen`: `[queries]`, each at least 1, none less than the one before
/// - `keys`: `[blocks, head_dim, BLOCK]`; `values`: `[tokens, head_dim]`
///
/// # Panics
///
/// If the shapes do not fit.
pub fn attend(q: &[f32], seen: &[usize], keys: &[f32], values: &[f32], out: &mut [f32]) {
    let (queries, Some(&most)) = (seen.len(), seen.last()) else { return };
    let head_dim = q.len() / queries;
    assert!(q.len() == queries * head_dim && out.len() == q.len(), "queries");
    assert!(seen.is_sorted() && seen[0] > 0, "later queries see no less");
    let stride = most.next_multiple_of(BLOCK);
    let mut scores = vec![0.0; queries * stride];
    let blocks = keys[..stride * head_dim].chunks_exact(BLOCK * head_dim);
    for (block, keys) in blocks.enumerate() {
        arch().dispatch(Block {
            a: Matrix::new(q, queries, head_dim),
            b: Matrix::new(keys, head_dim, BLOCK),
            out: &mut scores[block * BLOCK..],
            out_stride: stride,
            accumulate: false,
        });
    }
    let scale = 1.0 / (head_dim as f32).sqrt();
    for (scores, &seen) in scores.chunks_exact_mut(stride).zip(seen) {
        multiply(&mut scores[..seen], scale);
        softmax(&mut scores[..seen]);
        scores[seen..].fill(0.0);
    }
    arch().dispatch(Block {
        a: Matrix::strided(&scores, queries, most, stride),
        b: Matrix::new(&values[..most * head_dim], most, head_dim),
        out,
        out_stride: head_dim,
        accumulate: false,
    });
}

simd! {
    fn multiply<'a>(x: &'a mut [f32], by: f32) {
        x.iter_mut().for_each(|x| *x *= by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize) -> f32 {
        ((n.wrapping_mul(2_654_435_761) >> 7) % 2_001) as f32 / 1_000.0 - 1.0
    }

    fn cache(tokens: usize, head_dim: usize) -> (Vec<f32>, Vec<f32>) {
        let mut keys = vec![0.0; tokens.next_multiple_of(BLOCK) * head_dim];
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
                attend(&q, &seen, &keys, &values, &mut out);
                for (i, &seen) in seen.iter().enumerate() {
                    let q = &q[i * head_dim..][..head_dim];
                    let mut alone = vec![0.0; head_dim];
                    attend(q, &[seen], &keys, &values, &mut alone);
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
