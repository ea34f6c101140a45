//! The two passes of clipping gradients by their norm (arXiv:1211.5063).

use rayon::prelude::*;

use crate::simd::{LANES, simd};

/// Entries in one task, and in one partial sum.
const CHUNK: usize = 1 << 16;

/// The sum of the squares, in f64 and in a fixed order.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    x.par_chunks(CHUNK).map(squares).collect::<Vec<f64>>().iter().sum()
}

/// `x = x * factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    x.par_chunks_mut(CHUNK).for_each(|x| scale_chunk(x, factor));
}

simd! {
    fn squares<'a>(x: &'a [f32]) -> f64 {
        let mut lanes = [0.0f64; LANES];
        let (whole, tail) = x.as_chunks::<LANES>();
        for x in whole {
            for (lane, &x) in lanes.iter_mut().zip(x) {
                *lane += f64::from(x) * f64::from(x);
            }
        }
        let tail: f64 = tail.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        lanes.iter().sum::<f64>() + tail
    }
}

simd! {
    fn scale_chunk<'a>(x: &'a mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}
