//! Causal self-attention with grouped key and value heads.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use tern_format::config::{AttentionInitializer, ModelConfig, Norm as Kind};

use crate::bit_linear::BitLinear;
use crate::fused::{self, AttentionShape, RopeTables};
use crate::norm::Norm;
use crate::parameters::{Init, values};

/// `o(norm(softmax(rope(q) rope(k)^T / sqrt(head_dim)) v))`, causal (arXiv:1706.03762, arXiv:2104.09864, arXiv:2305.13245). The
/// norm is BitNet's sub-norm (arXiv:2504.12285), where the model has one; queries and keys are normalized head by head
/// (arXiv:2010.04245) and rotated where it does so.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[heads * head_dim, hidden]`
    pub q_proj: BitLinear,
    /// `[key_value_heads * head_dim, hidden]`
    pub k_proj: BitLinear,
    /// `[key_value_heads * head_dim, hidden]`
    pub v_proj: BitLinear,
    /// Over the channels of a query head.
    pub q_norm: Option<Norm>,
    /// Over the channels of a key head.
    pub k_norm: Option<Norm>,
    /// Over the channels of all heads.
    pub attn_sub_norm: Option<Norm>,
    /// `[hidden, heads * head_dim]`
    pub o_proj: BitLinear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    key_value_heads: usize,
    #[module(skip)]
    head_dim: usize,
    #[module(skip)]
    fused_qkv: bool,
    #[module(skip)]
    rope: Option<RopeTables>,
}

impl Attention {
    /// Fresh weights; `rope` holds the model's longest sequence and is shared by its layers.
    pub fn init(
        config: &ModelConfig,
        rope: Option<&RopeTables>,
        init: &mut Init,
        device: &Device,
    ) -> Self {
        let [q, k, v, o] = config.attention_linears();
        let mut linear = |shape| BitLinear::init(config, shape, init, device);
        let norm = |there: bool, width| there.then(|| Norm::init(Kind::Rms, width, config, device));
        let mut attention = Self {
            q_proj: linear(q),
            k_proj: linear(k),
            v_proj: linear(v),
            q_norm: norm(config.qk_norm, config.head_dim),
            k_norm: norm(config.qk_norm, config.head_dim),
            attn_sub_norm: norm(config.sub_norm, o.d_input),
            o_proj: linear(o),
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            fused_qkv: config.fused_qkv,
            rope: rope.cloned(),
        };
        if config.attention_initializer == AttentionInitializer::Copy {
            attention.o_proj.weight = attention.transposed_values(device);
        }
        attention
    }

    /// The value projection transposed, each key and value head once for every query head that it serves:
    /// `[hidden, heads * head_dim]`.
    fn transposed_values(&self, device: &Device) -> Param<Tensor<2>> {
        let [_, hidden] = self.v_proj.weight.dims();
        let values = values(self.v_proj.weight.val());
        let shared = self.heads / self.key_value_heads;
        let transposed: Vec<f32> = (0..hidden)
            .flat_map(|column| {
                let row = move |head: usize, i| (head / shared * self.head_dim + i) * hidden;
                (0..self.heads)
                    .flat_map(move |head| (0..self.head_dim).map(move |i| row(head, i) + column))
            })
            .map(|place| values[place])
            .collect();
        let shape = [hidden, self.heads * self.head_dim];
        Param::from_tensor(Tensor::from_data(TensorData::new(transposed, shape), device))
    }

    /// # Shapes
    ///
    /// - `x`: `[batch * seq, hidden]`
    /// - returns `[batch * seq, hidden]`
    pub fn forward(&self, x: Tensor<2>, [batch, seq]: [usize; 2]) -> Tensor<2> {
        // [batch * seq, heads * head_dim], and twice [batch * seq, key_value_heads * head_dim]
        let layers = [&self.q_proj, &self.k_proj, &self.v_proj];
        let [q, k, v] = if self.fused_qkv {
            BitLinear::forward_as_one(layers, x)
        } else {
            layers.map(|layer| layer.forward(x.clone()))
        };
        let q = self.normalize_heads(self.q_norm.as_ref(), q);
        let k = self.normalize_heads(self.k_norm.as_ref(), k);
        let shape = AttentionShape {
            batch,
            seq,
            heads: self.heads,
            key_value_heads: self.key_value_heads,
            head_dim: self.head_dim,
        };
        let mixed = fused::causal_attention(q, k, v, shape, self.rope.as_ref());
        let mixed = match &self.attn_sub_norm {
            None => mixed,
            Some(norm) => norm.forward(mixed),
        };
        self.o_proj.forward(mixed)
    }

    /// # Shapes
    ///
    /// - `x`: `[rows, heads * head_dim]`
    /// - returns the same
    fn normalize_heads(&self, norm: Option<&Norm>, x: Tensor<2>) -> Tensor<2> {
        let Some(norm) = norm else { return x };
        let shape = x.dims();
        let heads = x.reshape([shape[0] * shape[1] / self.head_dim, self.head_dim]);
        norm.forward(heads).reshape(shape)
    }
}

#[cfg(test)]
mod tests {
    use tern_format::config::Architecture;

    use super::*;

    #[test]
    fn the_output_starts_as_the_transposed_values() {
        let config = ModelConfig {
            hidden_size: 6,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 2,
            attention_initializer: AttentionInitializer::Copy,
            ..ModelConfig::preset(Architecture::Bitlm)
        };
        let device = Device::flex();
        let rope = RopeTables::new(8, 2, 1e4);
        let attention = Attention::init(&config, Some(&rope), &mut Init::new(1), &device);
        let (v, o) = (values(attention.v_proj.weight.val()), values(attention.o_proj.weight.val()));
        for hidden in 0..6 {
            for head in 0..4 {
                for i in 0..2 {
                    let value = v[(head / 2 * 2 + i) * 6 + hidden];
                    assert_eq!(o[hidden * 8 + head * 2 + i], value);
                }
            }
        }
    }
}
