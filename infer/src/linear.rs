//! A linear layer over packed or float weights, `y = x W^T`.

use rayon::prelude::*;
use tern_format::config::ActivationQuantizer;
use tern_format::packed::Tensor;
use tern_kernels::quantize::quantize_int8;
use tern_kernels::ternary::Kernel;

/// Products below which a second thread costs more than it saves: handing out work takes some 10 us, and
/// one core does this many in 40 (int8) to 170 us (floats).
pub(crate) const PARALLEL: usize = 1 << 21;

/// Tokens that one task takes: a multiple of the four that a kernel's tile takes.
const TOKENS: usize = 16;

/// Outputs that one task takes.
const OUTPUTS: usize = 64;

/// The input of one or more layers: floats, and their eight-bit codes where the model has them.
///
/// Quantized once, for all layers that read it.
#[derive(Debug)]
pub struct Activations<'a> {
    x: &'a [f32],
    /// Codes `[seq, d_input]` and scales `[seq]`.
    int8: Option<(Vec<i8>, Vec<f32>)>,
}

impl<'a> Activations<'a> {
    /// Quantizes each token, if the model does (`scale = max(max|x|, 1e-5) / 127`).
    ///
    /// # Shapes
    ///
    /// - `x`: `[seq, d_input]`
    pub fn new(x: &'a [f32], d_input: usize, quantizer: ActivationQuantizer) -> Self {
        let int8 = (quantizer == ActivationQuantizer::Int8).then(|| {
            let mut codes = vec![0; x.len()];
            let tokens = x.chunks_exact(d_input).zip(codes.chunks_exact_mut(d_input));
            let scales = tokens.map(|(x, codes)| quantize_int8(x, codes)).collect();
            (codes, scales)
        });
        Self { x, int8 }
    }
}

/// One linear layer, without bias.
#[derive(Debug)]
pub struct Linear {
    d_output: usize,
    d_input: usize,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    /// Rows in the encoding `t2`, as the file has them, and the scale of all.
    Ternary { bytes: Vec<u8>, scale: f32 },
    /// Rows as the file has them. They are never ternarized here: a latent model is a float model, and
    /// the verifier says so.
    Float(Vec<f32>),
}

impl Linear {
    /// Takes over a matrix that [`tern_format::packed::PackedModel::validate`] has passed.
    ///
    /// # Shapes
    ///
    /// - `tensor`: `[d_output, d_input]`
    pub fn new(tensor: Tensor, d_output: usize, d_input: usize) -> Self {
        let weights = match tensor {
            Tensor::Ternary(ternary) => {
                let scale = ternary.scales.first().copied().unwrap_or(1.0);
                Weights::Ternary { bytes: ternary.bytes, scale }
            }
            Tensor::Float(float) => Weights::Float(float.values),
        };
        Self { d_output, d_input, weights }
    }

    /// `y = (trits · codes) * scale_w * scale_x`: integers first, then the scales. Without codes
    /// `y = (trits · x) * scale_w`, and with float weights `y = W x`.
    ///
    /// # Shapes
    ///
    /// - `x`: `[seq, d_input]`; returns `[seq, d_output]`
    pub fn forward(&self, kernel: Kernel, x: &Activations<'_>) -> Vec<f32> {
        let (d_output, d_input) = (self.d_output, self.d_input);
        match (&self.weights, &x.int8) {
            (Weights::Ternary { bytes, scale }, None) => {
                let row_bytes = d_input.div_ceil(4);
                let mut y = self.split(x.x, |rows, x, y| {
                    let bytes = &bytes[rows.start * row_bytes..rows.end * row_bytes];
                    kernel.matmul_f32(bytes, rows.len(), d_input, x, y);
                });
                y.iter_mut().for_each(|y| *y *= scale);
                y
            }
            (Weights::Ternary { bytes, scale }, Some((codes, scales))) => {
                let row_bytes = d_input.div_ceil(4);
                let sums: Vec<i32> = self.split(codes, |rows, x, y| {
                    let bytes = &bytes[rows.start * row_bytes..rows.end * row_bytes];
                    kernel.matmul_i8(bytes, rows.len(), d_input, x, y);
                });
                let mut y = vec![0.0; sums.len()];
                let tokens = y.chunks_exact_mut(d_output).zip(sums.chunks_exact(d_output));
                for ((y, sums), of_x) in tokens.zip(scales) {
                    y.iter_mut().zip(sums).for_each(|(y, &sum)| *y = sum as f32 * scale * of_x);
                }
                y
            }
            (Weights::Float(w), None) => self.float(kernel, w, x.x),
            (Weights::Float(w), Some((codes, scales))) => {
                let mut x = vec![0.0; codes.len()];
                let tokens = x.chunks_exact_mut(d_input).zip(codes.chunks_exact(d_input));
                for ((x, codes), of_x) in tokens.zip(scales) {
                    x.iter_mut().zip(codes).for_each(|(x, &code)| *x = f32::from(code) * of_x);
                }
                self.float(kernel, w, &x)
            }
        }
    }

    fn float(&self, kernel: Kernel, w: &[f32], x: &[f32]) -> Vec<f32> {
        dense(kernel, w, self.d_output, self.d_input, x)
    }

    fn split<X: Sync, Y: Copy + Default + Send>(
        &self,
        x: &[X],
        product: impl Fn(std::ops::Range<usize>, &[X], &mut [Y]) + Sync,
    ) -> Vec<Y> {
        split(self.d_output, self.d_input, x, product)
    }
}

/// A float product, over threads where it is large: float layers and the head.
///
/// # Shapes
///
/// - `w`: `[d_output, d_input]`; `x`: `[seq, d_input]`; returns `[seq, d_output]`
pub(crate) fn dense(
    kernel: Kernel,
    w: &[f32],
    d_output: usize,
    d_input: usize,
    x: &[f32],
) -> Vec<f32> {
    split(d_output, d_input, x, |rows, x, y| {
        kernel.dense(&w[rows.start * d_input..rows.end * d_input], rows.len(), d_input, x, y);
    })
}

/// Cuts a product into fixed tasks: several tokens by tokens, one token by outputs. A kernel's sums
/// depend on nothing beside them, so neither the cut nor the number of threads changes a bit.
fn split<X: Sync, Y: Copy + Default + Send>(
    d_output: usize,
    d_input: usize,
    x: &[X],
    product: impl Fn(std::ops::Range<usize>, &[X], &mut [Y]) + Sync,
) -> Vec<Y> {
    let seq = x.len() / d_input;
    let mut y = vec![Y::default(); seq * d_output];
    if seq * d_output * d_input < PARALLEL {
        product(0..d_output, x, &mut y);
    } else if seq > 1 {
        y.par_chunks_mut(TOKENS * d_output)
            .zip(x.par_chunks(TOKENS * d_input))
            .for_each(|(y, x)| product(0..d_output, x, y));
    } else {
        y.par_chunks_mut(OUTPUTS).enumerate().for_each(|(task, y)| {
            product(task * OUTPUTS..task * OUTPUTS + y.len(), x, y);
        });
    }
    y
}
