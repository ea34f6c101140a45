//! Normalization with a gain, and with a bias where it centres.

use tern_kernels::norm::{layer_norm, rms_norm};

/// RMSNorm (arXiv:1910.07467) or LayerNorm (arXiv:1607.06450).
#[derive(Debug)]
pub struct Norm {
    gain: Vec<f32>,
    /// Of a LayerNorm.
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl Norm {
    /// `x / sqrt(mean(x^2) + eps) * gain`.
    ///
    /// # Shapes
    ///
    /// - `gain`: `[hidden]`
    pub fn rms(gain: Vec<f32>, eps: f64) -> Self {
        Self { gain, bias: None, eps: eps as f32 }
    }

    /// `(x - mean) / sqrt(variance + eps) * gain + bias`.
    ///
    /// # Shapes
    ///
    /// - `gain`, `bias`: `[hidden]`
    pub fn layer(gain: Vec<f32>, bias: Vec<f32>, eps: f64) -> Self {
        Self { gain, bias: Some(bias), eps: eps as f32 }
    }

    /// # Shapes
    ///
    /// - `x`: `[rows, hidden]`; returns the same
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        match &self.bias {
            None => rms_norm(x, &self.gain, self.eps, &mut out),
            Some(bias) => layer_norm(x, &self.gain, bias, self.eps, &mut out),
        }
        out
    }
}
