//! Products of float matrices: the head and float layers.

use crate::ternary::Kernel;

impl Kernel {
    /// `y[t, r] = sum_i w[r, i] * x[t, i]`.
    ///
    /// Like the ternary products, the sum of a row depends on nothing computed beside it.
    ///
    /// # Shapes
    ///
    /// - `w`: `[d_output, d_input]`; `x`: `[seq, d_input]`; `y`: `[seq, d_output]`
    ///
    /// # Panics
    ///
    /// If a length does not fit the shape, or `d_input` is 0.
    pub fn dense(&self, w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
        assert!(d_input > 0, "vectors of something");
        assert_eq!(Some(w.len()), d_output.checked_mul(d_input), "rows of weights");
        assert!(x.len().is_multiple_of(d_input), "whole vectors");
        let sums = (x.len() / d_input).checked_mul(d_output);
        assert_eq!(Some(y.len()), sums, "one sum for a row and a vector");
        self.arch().dense(w, d_output, d_input, x, y);
    }
}
