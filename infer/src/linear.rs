//! Linear layers over packed or float weights, `y = x W^T`.

use std::cell::OnceCell;
use std::sync::Arc;

use tern_format::config::ActivationQuantizer;
use tern_format::packed::Tensor;
use tern_kernels::pool::{PARALLEL, Pool};
use tern_kernels::ternary::Kernel;
use tern_kernels::ternary_matrix::{T2, TernaryMatrix};
use tern_kernels::tokens::{FloatTokens, Int8Tokens};

use crate::error::Result;

/// What computes: the kernels of this CPU, and the threads they run on.
#[derive(Clone, Debug)]
pub struct Engine {
    /// The instructions.
    pub kernel: Kernel,
    /// The threads.
    pub pool: Arc<Pool>,
}

impl Engine {
    /// The kernel that this CPU or `TERN_KERNEL` chooses, on the threads of this process.
    ///
    /// # Errors
    ///
    /// If `TERN_KERNEL` names a kernel that is not to be had.
    pub fn detect() -> Result<Self> {
        Ok(Kernel::detect()?.into())
    }
}

impl From<Kernel> for Engine {
    /// On the threads of this process.
    fn from(kernel: Kernel) -> Self {
        Self { kernel, pool: Pool::common() }
    }
}

/// The input of one or more layers, as their weights want it: quantized and dealt once, for all that read it.
#[derive(Debug)]
pub struct Activations<'a> {
    x: &'a [f32],
    d_input: usize,
    int8: Option<Int8Tokens>,
    float: OnceCell<FloatTokens>,
}

impl<'a> Activations<'a> {
    /// Quantizes each token, if the model does (`scale = max(max|x|, 1e-5) / 127`).
    ///
    /// # Shapes
    ///
    /// - `x`: `[seq, d_input]`
    pub fn new(x: &'a [f32], d_input: usize, quantizer: ActivationQuantizer) -> Self {
        let int8 = match quantizer {
            ActivationQuantizer::Int8 => Some(Int8Tokens::quantize(x, d_input)),
            ActivationQuantizer::None => None,
        };
        Self { x, d_input, int8, float: OnceCell::new() }
    }

    /// Tokens.
    pub(crate) fn seq(&self) -> usize {
        self.x.len() / self.d_input
    }

    fn float(&self) -> &FloatTokens {
        self.float.get_or_init(|| FloatTokens::new(self.x, self.d_input))
    }
}

/// Layers that have the same input, as one: its output is theirs, one after the other.
#[derive(Debug)]
pub struct Linear {
    d_output: usize,
    parts: Vec<Weights>,
    /// `[d_output]`.
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum Weights {
    Ternary(TernaryMatrix),
    /// `[d_output, d_input]`. They are never ternarized here: a latent model is a float model, and the verifier says so.
    Float {
        w: Vec<f32>,
        d_output: usize,
    },
}

impl Linear {
    /// Takes over matrices that [`tern_format::packed::PackedModel::validate`] has passed.
    ///
    /// # Shapes
    ///
    /// - `tensors`: each with its `d_output`, `[d_output, d_input]`; `bias`: of all of them, one after the other
    pub fn new(tensors: Vec<(Tensor, usize)>, d_input: usize, bias: Option<Vec<f32>>) -> Self {
        let d_output = tensors.iter().map(|(_, d_output)| d_output).sum();
        let is_ternary = |tensor: &Tensor| matches!(tensor, Tensor::Ternary(_));
        let mut parts = Vec::new();
        // Neighbours of a kind are one matrix; in a model that a verifier would accept all are of a kind.
        for run in tensors.chunk_by(|(a, _), (b, _)| is_ternary(a) == is_ternary(b)) {
            let (mut ternary, mut w) = (Vec::new(), Vec::new());
            for (tensor, d_output) in run {
                match tensor {
                    Tensor::Ternary(tensor) => ternary.push(T2 {
                        bytes: &tensor.bytes,
                        d_output: *d_output,
                        scale: tensor.scales.first().copied().unwrap_or(1.0),
                    }),
                    Tensor::Float(tensor) => w.extend_from_slice(&tensor.values),
                }
            }
            parts.push(if ternary.is_empty() {
                Weights::Float { d_output: w.len() / d_input, w }
            } else {
                Weights::Ternary(TernaryMatrix::stack(&ternary, d_input))
            });
        }
        Self { d_output, parts, bias }
    }

    /// Bytes of its matrices.
    pub(crate) fn size_bytes(&self) -> usize {
        let size = |part: &Weights| match part {
            Weights::Ternary(w) => w.size_bytes(),
            Weights::Float { w, .. } => size_of_val(w.as_slice()),
        };
        self.parts.iter().map(size).sum()
    }

    /// `y = (trits · codes) * scale_w * scale_x`: integers first, then the scales. Without codes
    /// `y = (trits · x) * scale_w`, and with float weights `y = W x`; then the bias.
    ///
    /// # Shapes
    ///
    /// - `x`: `[seq, d_input]`; returns `[seq, d_output]`
    pub fn forward(&self, engine: &Engine, x: &Activations<'_>) -> Vec<f32> {
        let mut y = self.products(engine, x);
        if let Some(bias) = &self.bias {
            for y in y.chunks_exact_mut(self.d_output) {
                y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
        }
        y
    }

    fn products(&self, engine: &Engine, x: &Activations<'_>) -> Vec<f32> {
        if let [only] = &self.parts[..] {
            return only.forward(engine, x);
        }
        let parts: Vec<_> = self.parts.iter().map(|part| part.forward(engine, x)).collect();
        let mut y = Vec::with_capacity(x.seq() * self.d_output);
        for t in 0..x.seq() {
            for part in &parts {
                let width = part.len() / x.seq();
                y.extend_from_slice(&part[t * width..][..width]);
            }
        }
        y
    }
}

impl Weights {
    fn forward(&self, engine: &Engine, x: &Activations<'_>) -> Vec<f32> {
        let Engine { kernel, pool } = engine;
        match (self, &x.int8) {
            (Self::Ternary(w), None) => {
                let mut y = vec![0.0; x.seq() * w.d_output()];
                kernel.ternary_f32(pool, w, x.float(), &mut y);
                y
            }
            (Self::Ternary(w), Some(x)) => {
                let mut y = vec![0.0; x.seq() * w.d_output()];
                kernel.ternary_int8(pool, w, x, &mut y);
                y
            }
            (Self::Float { w, d_output }, None) => dense(engine, w, *d_output, x.d_input, x.x),
            (Self::Float { w, d_output }, Some(int8)) => {
                dense(engine, w, *d_output, x.d_input, &int8.dequantize())
            }
        }
    }
}

/// Tokens that one task takes: a multiple of the four that a kernel's tile takes.
const TOKENS: usize = 16;

/// Outputs that one task takes.
const OUTPUTS: usize = 64;

/// A float product, over threads where it is large: float layers and the head. A kernel's sums depend on nothing beside
/// them, so neither the cut into tasks nor the number of threads changes a bit.
///
/// # Shapes
///
/// - `w`: `[d_output, d_input]`; `x`: `[seq, d_input]`; returns `[seq, d_output]`
pub(crate) fn dense(
    engine: &Engine,
    w: &[f32],
    d_output: usize,
    d_input: usize,
    x: &[f32],
) -> Vec<f32> {
    let Engine { kernel, pool } = engine;
    let seq = x.len() / d_input;
    let mut y = vec![0.0; seq * d_output];
    if seq * d_output * d_input < PARALLEL {
        kernel.dense(w, d_output, d_input, x, &mut y);
    } else if seq > 1 {
        pool.write_chunks(&mut y, TOKENS * d_output, |task, y| {
            let x = &x[task * TOKENS * d_input..][..y.len() / d_output * d_input];
            kernel.dense(w, d_output, d_input, x, y);
        });
    } else {
        pool.write_chunks(&mut y, OUTPUTS, |task, y| {
            let w = &w[task * OUTPUTS * d_input..][..y.len() * d_input];
            kernel.dense(w, y.len(), d_input, x, y);
        });
    }
    y
}
