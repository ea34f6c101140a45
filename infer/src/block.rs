//! One block of the decoder.

use crate::attention::Attention;
use crate::cache::LayerCache;
use crate::linear::Engine;
use crate::mlp::Mlp;
use crate::norm::Norm;
use crate::rope::Angles;

/// Pre-norm: `x += attention(norm(x))`, then `x += mlp(norm(x))`.
#[derive(Debug)]
pub struct Block {
    pub(crate) input_layernorm: Norm,
    pub(crate) self_attn: Attention,
    pub(crate) post_attention_layernorm: Norm,
    pub(crate) mlp: Mlp,
}

impl Block {
    /// Bytes of its matrices.
    pub(crate) fn size_bytes(&self) -> usize {
        self.self_attn.size_bytes() + self.mlp.size_bytes()
    }

    /// # Shapes
    ///
    /// - `x`: `[seq, hidden]`, the residual stream, in place; `seen`: tokens in `cache` before
    pub fn forward(
        &self,
        engine: &Engine,
        x: &mut [f32],
        hidden: usize,
        angles: Option<&Angles>,
        seen: usize,
        cache: &mut LayerCache,
    ) {
        let normed = self.input_layernorm.forward(x);
        add(x, &self.self_attn.forward(engine, &normed, hidden, angles, seen, cache));
        let normed = self.post_attention_layernorm.forward(x);
        add(x, &self.mlp.forward(engine, &normed));
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
