//! Causal self-attention over the cache, with grouped key/value heads.

use tern_format::config::{ActivationQuantizer, ModelConfig};
use tern_kernels::pool::PARALLEL;
use tern_kernels::softmax::softmax;
use tern_kernels::ternary::Kernel;

use crate::cache::LayerCache;
use crate::linear::{Activations, Engine, Linear};
use crate::norm::Norm;
use crate::rope::Angles;

/// `o_proj(norm(softmax(rope(q) rope(k)^T / sqrt(head_dim)) v))`; query head `h` reads key/value head
/// `h / (heads / key_value_heads)` (GQA, arXiv:2305.13245). The norm is BitNet's sub-norm (arXiv:2504.12285), where the
/// model has one; queries and keys are normalized and rotated where it does so.
#[derive(Debug)]
pub struct Attention {
    /// `q_proj` over `k_proj` over `v_proj`.
    qkv_proj: Linear,
    /// Of queries and of keys, over each head.
    qk_norm: Option<[Norm; 2]>,
    attn_sub_norm: Option<Norm>,
    o_proj: Linear,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    quantizer: ActivationQuantizer,
}

impl Attention {
    /// `qkv_proj` is `q_proj` over `k_proj` over `v_proj`; `qk_norm` has the norms of queries and of keys.
    pub fn new(
        qkv_proj: Linear,
        qk_norm: Option<[Norm; 2]>,
        attn_sub_norm: Option<Norm>,
        o_proj: Linear,
        config: &ModelConfig,
    ) -> Self {
        Self {
            qkv_proj,
            qk_norm,
            attn_sub_norm,
            o_proj,
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            quantizer: config.activation_quantizer,
        }
    }

    /// Bytes of its matrices.
    pub(crate) fn size_bytes(&self) -> usize {
        self.qkv_proj.size_bytes() + self.o_proj.size_bytes()
    }

    /// Adds the tokens to the cache and lets each look at itself and all before it.
    ///
    /// # Shapes
    ///
    /// - `x`: `[seq, hidden]`, normalized; `angles`: of those tokens, where the model rotates
    /// - `seen`: tokens in `cache` before
    /// - returns `[seq, hidden]`
    pub fn forward(
        &self,
        engine: &Engine,
        x: &[f32],
        hidden: usize,
        angles: Option<&Angles>,
        seen: usize,
        cache: &mut LayerCache,
    ) -> Vec<f32> {
        let x = Activations::new(x, hidden, self.quantizer);
        let mut qkv = self.qkv_proj.forward(engine, &x); // [seq, heads + 2 key_value_heads, head_dim]
        let width = self.heads * self.head_dim;
        let all = width + 2 * self.key_value_heads * self.head_dim;
        if let Some([of_queries, of_keys]) = &self.qk_norm {
            for token in qkv.chunks_exact_mut(all) {
                let (q, keys_values) = token.split_at_mut(width);
                let (k, _) = keys_values.split_at_mut(self.key_value_heads * self.head_dim);
                q.copy_from_slice(&of_queries.forward(q));
                k.copy_from_slice(&of_keys.forward(k));
            }
        }
        if let Some(angles) = angles {
            angles.rotate(&mut qkv, all, self.heads + self.key_value_heads);
        }
        qkv.chunks_exact(all).for_each(|token| cache.push(&token[width..]));

        let seq = qkv.len() / all;
        let mut mixed = vec![0.0; seq * width]; // [seq, heads, head_dim]
        let mix = |i: usize, out: &mut [f32]| {
            let (t, head) = (i / self.heads, i % self.heads);
            let q = &qkv[t * all + head * self.head_dim..][..self.head_dim];
            self.mix(engine.kernel, q, head, seen + t + 1, cache, out);
        };
        if seq * (seen + seq) * width < PARALLEL {
            let heads = mixed.chunks_exact_mut(self.head_dim).enumerate();
            heads.for_each(|(i, out)| mix(i, out));
        } else {
            engine.pool.write_chunks(&mut mixed, self.head_dim, mix);
        }
        if let Some(norm) = &self.attn_sub_norm {
            mixed = norm.forward(&mixed);
        }
        self.o_proj.forward(engine, &Activations::new(&mixed, width, self.quantizer))
    }

    /// What one head of one token reads from the first `seq` of the cache.
    ///
    /// # Shapes
    ///
    /// - `q`, `out`: `[head_dim]`
    fn mix(
        &self,
        kernel: Kernel,
        q: &[f32],
        head: usize,
        seq: usize,
        cache: &LayerCache,
        out: &mut [f32],
    ) {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let group = head / (self.heads / self.key_value_heads);
        let (keys, values) = cache.head(group, seq);
        let mut scores = vec![0.0; seq];
        kernel.dense(keys, seq, self.head_dim, q, &mut scores);
        scores.iter_mut().for_each(|score| *score *= scale);
        softmax(&mut scores);
        kernel.weighted_rows(values, &scores, out);
    }
}
