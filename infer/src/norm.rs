//! Root-mean-square normalization with a gain.

use tern_kernels::norm::rms_norm;

/// `x / sqrt(mean(x^2) + eps) * gain` (RMSNorm, arXiv:1910.07467).
#[derive(Debug)]
pub struct RmsNorm {
    gain: Vec<f32>,
    eps: f32,
}

impl RmsNorm {
    /// # Shapes
    ///
    /// - `gain`: `[hidden]`
    pub fn new(gain: Vec<f32>, eps: f64) -> Self {
        Self { gain, eps: eps as f32 }
    }

    /// # Shapes
    ///
    /// - `x`: `[seq, hidden]`; returns the same
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        rms_norm(x, &self.gain, self.eps, &mut out);
        out
    }
}
