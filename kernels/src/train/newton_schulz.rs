//! Newton-Schulz iteration: a matrix with the same singular vectors and singular values near 1.

use super::gemm::{Matrix, matmul, matmul_add};
use super::pool;
use crate::simd::{simd, sum};

/// Coefficients of `x`, `x^3` and `x^5` in one iteration (<https://kellerjordan.github.io/posts/muon/>): steep at zero, so
/// that small singular values grow fast, and therefore without a fixed point at 1.
pub const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// Added to the norm that the matrix is divided by.
pub const EPS: f32 = 1e-7;

/// Entries in one part of the norm's sum.
const CHUNK: usize = 1 << 14;

/// Orthogonalizes `x`: five `steps` take singular values from 1/600 of the norm on to between 0.68 and 1.21.
///
/// `x /= |x| + EPS` in the Frobenius norm; then `steps` times `x = a x + (b g + c g^2) x` with the Gram matrix `g = x x^T`, or
/// its mirror image from the right where `x` is taller than wide, which makes `g` the smaller one.
///
/// # Shapes
///
/// - `x`: `[rows, cols]`, row-major
/// - returns `[rows, cols]`
///
/// # Panics
///
/// If `x` is not `rows * cols` long.
pub fn newton_schulz(mut x: Vec<f32>, [rows, cols]: [usize; 2], steps: u32) -> Vec<f32> {
    let squares: f64 = x.chunks(CHUNK).map(|x| f64::from(squares(x))).sum();
    scale(&mut x, 1.0 / (squares.sqrt() as f32 + EPS));
    let side = rows.min(cols);
    let [mut gram, mut square] = [(); 2].map(|()| pool::take(side * side));
    let mut next = pool::take(x.len());
    for _ in 0..steps {
        let m = Matrix::new(&x, rows, cols);
        let wide = rows <= cols;
        let [left, right] = if wide { [m, m.transposed()] } else { [m.transposed(), m] };
        matmul(left, right, &mut gram);
        let g = Matrix::new(&gram, side, side);
        matmul(g, g, &mut square);
        let [a, b, c] = COEFFICIENTS;
        combine(&mut gram, b, &square, c);
        next.copy_from_slice(&x);
        scale(&mut next, a);
        let g = Matrix::new(&gram, side, side);
        let [left, right] = if wide { [g, m] } else { [m, g] };
        matmul_add(left, right, &mut next);
        std::mem::swap(&mut x, &mut next);
    }
    [gram, square, next].into_iter().for_each(pool::give);
    x
}

simd! {
    fn squares<'a>(x: &'a [f32]) -> f32 {
        sum([x], |[x]| x * x)
    }
}

simd! {
    fn scale<'a>(x: &'a mut [f32], factor: f32) {
        x.iter_mut().for_each(|x| *x *= factor);
    }
}

simd! {
    /// `x = a x + b y`.
    fn combine<'a>(x: &'a mut [f32], a: f32, y: &'a [f32], b: f32) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x = a * *x + b * y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::noise;

    /// A matrix with orthonormal columns by Gram-Schmidt, `[rows, cols]`, columns one after the other.
    fn orthonormal(rows: usize, cols: usize, seed: u64) -> Vec<Vec<f64>> {
        let noise = noise(rows * cols, seed);
        let mut columns: Vec<Vec<f64>> = Vec::new();
        for column in noise.chunks(rows) {
            let mut column: Vec<f64> = column.iter().map(|&v| f64::from(v)).collect();
            // Twice, against cancellation.
            for other in columns.iter().chain(&columns) {
                let along = dot(other, &column);
                column.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
            }
            let norm = dot(&column, &column).sqrt();
            columns.push(column.into_iter().map(|v| v / norm).collect());
        }
        columns
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    /// What the iteration makes of a singular value, in f64.
    fn iterated(mut value: f64, steps: u32) -> f64 {
        let [a, b, c] = COEFFICIENTS.map(f64::from);
        for _ in 0..steps {
            value = a * value + b * value.powi(3) + c * value.powi(5);
        }
        value
    }

    /// A matrix `u s v^T` becomes `u p(s) v^T`, with `p` the polynomial, and `p(s)` near 1.
    #[test]
    fn singular_values_come_near_one_and_vectors_stay() {
        for [rows, cols] in [[1, 1], [24, 24], [24, 65], [65, 24], [40, 300], [300, 40]] {
            let side = rows.min(cols);
            let (u, v) = (orthonormal(rows, side, 5), orthonormal(cols, side, 6));
            // From 1 down to 1/50: a wide range, as a momentum has.
            let values: Vec<f64> =
                (0..side).map(|i| 50f64.powf(-(i as f64) / side as f64)).collect();
            let matrix = |values: &[f64]| -> Vec<f64> {
                let entry = |i: usize, j: usize| -> f64 {
                    (0..side).map(|k| u[k][i] * values[k] * v[k][j]).sum()
                };
                (0..rows * cols).map(|place| entry(place / cols, place % cols)).collect()
            };
            let x: Vec<f32> = matrix(&values).into_iter().map(|v| v as f32 * 3.0).collect();
            let norm = dot(&values, &values).sqrt();
            let wanted: Vec<f64> = values.iter().map(|s| iterated(s / norm, 5)).collect();
            let near = |s: &f64| (0.68..=1.21).contains(s);
            assert!(wanted.iter().all(near), "{rows} x {cols}: {wanted:?}");
            let found = newton_schulz(x.clone(), [rows, cols], 5);
            assert!(found == newton_schulz(x, [rows, cols], 5), "other bytes the second time");
            for (found, wanted) in found.iter().zip(matrix(&wanted)) {
                // f32 sums of up to 300 terms, whose rounding five steps stretch by at most 3.4 each.
                assert!((f64::from(*found) - wanted).abs() < 2e-4, "{found} is not {wanted}");
            }
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        assert_eq!(newton_schulz(vec![0.0; 35], [5, 7], 5), vec![0.0; 35]);
    }
}
