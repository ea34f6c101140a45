//! Causal self-attention over the cache, with grouped key/value heads.

use rayon::prelude::*;
use tern_format::config::{ActivationQuantizer, ModelConfig};
use tern_kernels::softmax::softmax;
use tern_kernels::ternary::Kernel;

use crate::cache::LayerCache;
use crate::linear::{Activations, Linear, PARALLEL};
use crate::rope::Angles;

/// `o_proj(softmax(rope(q) rope(k)^T / sqrt(head_dim)) v)`; query head `h` reads key/value head
/// `h / (heads / key_value_heads)` (GQA, arXiv:2305.13245).
#[derive(Debug)]
pub struct Attention {
    pub(crate) q_proj: Linear,
    pub(crate) k_proj: Linear,
    pub(crate) v_proj: Linear,
    pub(crate) o_proj: Linear,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    quantizer: ActivationQuantizer,
}

impl Attention {
    /// `[q_proj, k_proj, v_proj, o_proj]`, in the order of the forward pass.
    pub fn new([q_proj, k_proj, v_proj, o_proj]: [Linear; 4], config: &ModelConfig) -> Self {
        Self {
            q_proj,
            k_proj,
            v_proj,
            o_proj,
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            quantizer: config.activation_quantizer,
        }
    }

    /// Adds the tokens to the cache and lets each look at itself and all before it.
    ///
    /// # Shapes
    ///
    /// - `x`: `[seq, hidden]`, normalized; `angles`: of those tokens
    /// - `seen`: tokens in `cache` before
    /// - returns `[seq, hidden]`
    pub fn forward(
        &self,
        kernel: Kernel,
        x: &[f32],
        hidden: usize,
        angles: &Angles,
        seen: usize,
        cache: &mut LayerCache,
    ) -> Vec<f32> {
        let x = Activations::new(x, hidden, self.quantizer);
        let mut q = self.q_proj.forward(kernel, &x); // [seq, heads, head_dim]
        let mut k = self.k_proj.forward(kernel, &x); // [seq, key_value_heads, head_dim]
        let v = self.v_proj.forward(kernel, &x); // [seq, key_value_heads, head_dim]
        angles.rotate(&mut q, self.heads);
        angles.rotate(&mut k, self.key_value_heads);
        cache.push(&k, &v);

        let width = self.heads * self.head_dim;
        let seq = q.len() / width;
        let mut mixed = vec![0.0; q.len()]; // [seq, heads, head_dim]
        let token = |scores: &mut Vec<f32>, (t, (q, out)): (usize, (&[f32], &mut [f32]))| {
            self.mix(kernel, q, seen + t + 1, cache, scores, out);
        };
        if seq == 1 || seq * (seen + seq) * width < PARALLEL {
            let tokens = q.chunks_exact(width).zip(mixed.chunks_exact_mut(width)).enumerate();
            let mut scores = Vec::new();
            tokens.for_each(|each| token(&mut scores, each));
        } else {
            let tokens = q.par_chunks_exact(width).zip(mixed.par_chunks_exact_mut(width));
            tokens.enumerate().for_each_init(Vec::new, token);
        }
        self.o_proj.forward(kernel, &Activations::new(&mixed, width, self.quantizer))
    }

    /// One token's attention to the first `seq` of the cache.
    ///
    /// # Shapes
    ///
    /// - `q`, `out`: `[heads, head_dim]`; `scores` is scratch
    fn mix(
        &self,
        kernel: Kernel,
        q: &[f32],
        seq: usize,
        cache: &LayerCache,
        scores: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        scores.resize(seq, 0.0);
        let heads = q.chunks_exact(self.head_dim).zip(out.chunks_exact_mut(self.head_dim));
        for (head, (q, out)) in heads.enumerate() {
            let group = head / (self.heads / self.key_value_heads);
            let (keys, values) = cache.head(group, seq);
            kernel.dense(keys, seq, self.head_dim, q, scores);
            scores.iter_mut().for_each(|score| *score *= scale);
            softmax(scores);
            kernel.weighted_rows(values, scores, out);
        }
    }
}
