//! Rotary positions (RoPE, arXiv:2104.09864), half-split as in Hugging Face's LLaMA.

use std::ops::Range;

use crate::simd::simd;

/// `theta^(-2i / head_dim)`: how fast each pair of a head turns, in radians a position.
///
/// # Shapes
///
/// - returns `[head_dim / 2]`
pub fn frequencies(head_dim: usize, theta: f64) -> Vec<f64> {
    (0..head_dim / 2).map(|i| theta.powf(-(2.0 * i as f64) / head_dim as f64)).collect()
}

/// Cosines and sines of `position * frequency`.
///
/// Computed in f64 on the host and rounded once: the sine of a shader is too loose.
///
/// # Shapes
///
/// - `frequencies`: `[head_dim / 2]`
/// - returns `(cos, sin)`, each `[positions, head_dim / 2]`
pub fn angles(frequencies: &[f64], positions: Range<usize>) -> (Vec<f32>, Vec<f32>) {
    let angles = positions.flat_map(|position| {
        frequencies.iter().map(move |frequency| (position as f64 * frequency).sin_cos())
    });
    angles.map(|(sin, cos)| (cos as f32, sin as f32)).unzip()
}

/// [`angles`] of the first `seq` positions.
///
/// # Shapes
///
/// - returns `(cos, sin)`, each `[seq, head_dim / 2]`
pub fn rope_tables(seq: usize, head_dim: usize, theta: f64) -> (Vec<f32>, Vec<f32>) {
    angles(&frequencies(head_dim, theta), 0..seq)
}

/// Rotates every head of one token: entry `i` with entry `i + head_dim / 2`.
///
/// `(a, b) -> (a cos - b sin, b cos + a sin)`.
///
/// # Shapes
///
/// - `x`: `[heads, head_dim]`
/// - `cos`, `sin`: `[head_dim / 2]`, the tables' row for the token's position
///
/// # Panics
///
/// If `cos` and `sin` differ in length or are empty, or `x` is not a whole number of heads.
pub fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    assert_eq!(cos.len(), sin.len(), "one sine for one cosine");
    assert!(x.len().is_multiple_of(2 * cos.len()), "whole heads");
    turn(x, cos, sin);
}

simd! {
    fn turn<'a>(x: &'a mut [f32], cos: &'a [f32], sin: &'a [f32]) {
        for head in x.chunks_exact_mut(2 * cos.len()) {
            let (low, high) = head.split_at_mut(cos.len());
            for (((a, b), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_depend_on_the_distance_alone() {
        let (cos, sin) = rope_tables(64, 8, 10_000.0);
        let q: Vec<f32> = (0..8).map(|i| (i as f32 * 0.7).sin()).collect();
        let k: Vec<f32> = (0..8).map(|i| (i as f32 * 1.3).cos()).collect();
        let at = |x: &[f32], position: usize| {
            let mut x = x.to_vec();
            rotate(&mut x, &cos[position * 4..][..4], &sin[position * 4..][..4]);
            x
        };
        let dot = |i, j| at(&q, i).iter().zip(at(&k, j)).map(|(a, b)| a * b).sum::<f32>();
        assert!((dot(3, 10) - dot(50, 57)).abs() < 1e-5);
        assert_eq!(at(&q, 0), q);
    }

    #[test]
    fn first_pair_turns_by_the_position() {
        let (cos, sin) = rope_tables(3, 4, 100.0);
        assert_eq!((cos[4], sin[4]), (2f64.cos() as f32, 2f64.sin() as f32));
        assert_eq!(cos[5], 0.2f64.cos() as f32);
        let mut x = [1.0, 0.0, 0.0, 0.0];
        rotate(&mut x, &cos[4..6], &sin[4..6]);
        assert_eq!(x, [cos[4], 0.0, sin[4], 0.0]);
    }
}
