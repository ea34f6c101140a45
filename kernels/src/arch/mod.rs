//! One file for each instruction set; a value of a type here is proof that the CPU has it.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod scalar;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
pub(crate) use scalar::Scalar;

/// What an instruction set computes. The public methods of [`crate::ternary::Kernel`] check the lengths
/// before they call these; shapes are theirs.
pub(crate) trait Arch: Send + Sync {
    fn name(&self) -> &'static str;

    /// `y[t, r] = sum_i trit(r, i) * x[t, i]`.
    fn ternary_f32(&self, bytes: &[u8], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]);

    /// `y[t, r] = sum_i trit(r, i) * x[t, i]`, exact.
    fn ternary_i8(&self, bytes: &[u8], d_output: usize, d_input: usize, x: &[i8], y: &mut [i32]);

    /// `y[t, r] = sum_i w[r, i] * x[t, i]`.
    fn dense(&self, w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]);

    /// `out[i] = sum_r weights[r] * rows[r, i]`.
    fn weighted_rows(&self, rows: &[f32], weights: &[f32], out: &mut [f32]);
}
