//! Causal self-attention over the cache, with grouped key/value heads.

use tern_format::config::{ActivationQuantizer, ModelConfig};
use tern_kernels::attention::attend;
use tern_kernels::pool::PARALLEL;

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
        let x = Activations::new(engine, x, hidden, self.quantizer);
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
        let mut mixed = self.mix(engine, &qkv, seq, seen, cache);
        if let Some(norm) = &self.attn_sub_norm {
            mixed = norm.forward(&mixed);
        }
        self.o_proj.forward(engine, &Activations::new(engine, &mixed, width, self.quantizer))
    }

    /// What the tokens read from the cache, `[seq, heads * head_dim]`.
    ///
    /// # Shapes
    ///
    /// - `qkv`: `[seq, heads + 2 key_value_heads, head_dim]`
    fn mix(
        &self,
        engine: &Engine,
        qkv: &[f32],
        seq: usize,
        seen: usize,
        cache: &LayerCache,
    ) -> Vec<f32> {
        let (group, width) = (self.heads / self.key_value_heads, self.heads * self.head_dim);
        // Query heads that share keys, and neighbouring tokens, are taken together: [heads of keys, parts, tokens, group].
        let (tokens, wide) = (seq.min(TOKENS), group * self.head_dim);
        let parts = seq.div_ceil(tokens);
        let all = qkv.len() / seq;
        let mut grouped = vec![0.0; self.key_value_heads * parts * tokens * wide];
        let mix = |task: usize, out: &mut [f32]| {
            let (head, first) = (task / parts, task % parts * tokens);
            let count = tokens.min(seq - first);
            let query = |t: usize| &qkv[t * all + head * wide..][..wide];
            let q: Vec<f32> = (first..first + count).flat_map(query).copied().collect();
            let sees: Vec<usize> =
                (0..count * group).map(|i| seen + first + i / group + 1).collect();
            let (keys, values) = cache.head(head);
            attend(&q, &sees, keys, values, &mut out[..q.len()]);
        };
        if seq * (seen + seq) * width < PARALLEL {
            grouped.chunks_exact_mut(tokens * wide).enumerate().for_each(|(i, out)| mix(i, out));
        } else {
            engine.pool.write_chunks(&mut grouped, tokens * wide, mix);
        }
        if self.key_value_heads == 1 || seq == 1 {
            grouped.truncate(seq * width);
            return grouped;
        }
        let mut mixed = vec![0.0; seq * width];
        for (head, grouped) in grouped.chunks_exact(parts * tokens * wide).enumerate() {
            for (mixed, grouped) in mixed.chunks_exact_mut(width).zip(grouped.chunks_exact(wide)) {
                mixed[head * wide..][..wide].copy_from_slice(grouped);
            }
        }
        mixed
    }
}

/// Tokens that one task takes.
const TOKENS: usize = 16;
