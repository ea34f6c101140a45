//! Linear layers over packed or float weights, `y = x W^T`.

use std::cell::OnceCell;
use std::sync::Arc;

use tern_format::config::ActivationQuantizer;
use tern_format::packed::{Encoding, Tensor, TernaryTensor};
use tern_kernels::pool::Pool;
use tern_kernels::sparse_matrix::{S24n, SparseMatrix};
use tern_kernels::ternary::Kernel;
use tern_kernels::ternary_matrix::{T2, TernaryMatrix};
use tern_kernels::tokens::{FloatTokens, Int8Tokens};

use crate::error::Result;
use crate::rows::Rows;

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
    pub fn new(
        engine: &Engine,
        x: &'a [f32],
        d_input: usize,
        quantizer: ActivationQuantizer,
    ) -> Self {
        let int8 = match quantizer {
            ActivationQuantizer::Int8 => Some(Int8Tokens::quantize(&engine.pool, x, d_input)),
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
    Sparse(SparseMatrix),
    /// `[d_output, d_input]`. They are never ternarized here: a latent model is a float model, and the verifier says so.
    Float(Rows),
}

impl Linear {
    /// Takes over matrices that [`tern_format::packed::PackedModel::validate`] has passed.
    ///
    /// # Shapes
    ///
    /// - `tensors`: each with its `d_output`, `[d_output, d_input]`; `bias`: of all of them, one after the other
    pub fn new(
        engine: &Engine,
        quantizer: ActivationQuantizer,
        tensors: Vec<(Tensor, usize)>,
        d_input: usize,
        bias: Option<Vec<f32>>,
    ) -> Self {
        let d_output = tensors.iter().map(|(_, d_output)| d_output).sum();
        // The kernel of 2:4 is for codes; with floats it would unpack the matrix for every token.
        let sparse = quantizer == ActivationQuantizer::Int8 && engine.kernel.prefers_sparse();
        let readable = |(tensor, d_output)| (readable(tensor, sparse), d_output);
        let tensors: Vec<_> = tensors.into_iter().map(readable).collect();
        let is_ternary = |tensor: &Tensor| matches!(tensor, Tensor::Ternary(_));
        let mut parts = Vec::new();
        // Neighbours that are ternary are one matrix; in a model that a verifier would accept all are.
        for run in tensors.chunk_by(|(a, _), (b, _)| is_ternary(a) && is_ternary(b)) {
            let (mut stacked, mut sparse) = (Vec::new(), Vec::new());
            for (tensor, d_output) in run {
                match tensor {
                    Tensor::Ternary(TernaryTensor { encoding, bytes, scale, .. }) => {
                        let (d_output, scale) = (*d_output, *scale);
                        match encoding {
                            Encoding::S24n => sparse.push(S24n { bytes, d_output, scale }),
                            _ => stacked.push(T2 { bytes, d_output, scale }),
                        }
                    }
                    Tensor::Float(rows) => {
                        parts.push(Weights::Float(Rows::new(rows.clone(), d_input)));
                    }
                }
            }
            if !stacked.is_empty() {
                parts.push(Weights::Ternary(TernaryMatrix::stack(&engine.pool, &stacked, d_input)));
            }
            // A file has one encoding, so the order of the two is theirs.
            if !sparse.is_empty() {
                parts.push(Weights::Sparse(SparseMatrix::stack(&engine.pool, &sparse, d_input)));
            }
        }
        Self { d_output, parts, bias }
    }

    /// Bytes of its matrices.
    pub(crate) fn size_bytes(&self) -> usize {
        let size = |part: &Weights| match part {
            Weights::Ternary(w) => w.size_bytes(),
            Weights::Sparse(w) => w.size_bytes(),
            Weights::Float(rows) => rows.size_bytes(),
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

/// Trits in an encoding that a kernel's matrix is made of: `s24n` where it gains by that, else `t2`.
fn readable(tensor: Tensor, sparse: bool) -> Tensor {
    match tensor {
        Tensor::Ternary(ternary)
            if ternary.encoding != Encoding::T2
                && !(sparse && ternary.encoding == Encoding::S24n) =>
        {
            let t2 = ternary.encode_as(Encoding::T2);
            Tensor::Ternary(t2.expect("`validate` has passed it, and t2 holds all trits"))
        }
        other => other,
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
            (Self::Sparse(w), None) => {
                let mut y = vec![0.0; x.seq() * w.d_output()];
                kernel.sparse_f32(pool, w, x.float(), &mut y);
                y
            }
            (Self::Sparse(w), Some(x)) => {
                let mut y = vec![0.0; x.seq() * w.d_output()];
                kernel.sparse_int8(pool, w, x, &mut y);
                y
            }
            (Self::Float(rows), None) => rows.dense(engine, x.x),
            (Self::Float(rows), Some(x)) => rows.dense(engine, &x.dequantize()),
        }
    }
}
