//! The feed-forward block.

use tern_format::config::{HiddenAct, ModelConfig};
use tern_kernels::activation::{Activation, activate, gate};

use crate::linear::{Activations, Engine, Linear};
use crate::norm::Norm;

/// Tokens that one task gates.
const TOKENS: usize = 16;

/// `down_proj(norm(act(gate_proj(x)) * up_proj(x)))` (SwiGLU, arXiv:2002.05202), or without a gate
/// `down_proj(norm(act(up_proj(x))))`; the norm is BitNet's sub-norm (arXiv:2504.12285), where the model has one.
#[derive(Debug)]
pub struct Mlp {
    /// `gate_proj` over `up_proj`; without a gate, `up_proj`.
    gate_up_proj: Linear,
    ffn_sub_norm: Option<Norm>,
    down_proj: Linear,
    config: ModelConfig,
}

impl Mlp {
    /// `gate_up_proj` is `gate_proj` over `up_proj`, or `up_proj` alone.
    pub fn new(
        gate_up_proj: Linear,
        ffn_sub_norm: Option<Norm>,
        down_proj: Linear,
        config: &ModelConfig,
    ) -> Self {
        Self { gate_up_proj, ffn_sub_norm, down_proj, config: config.clone() }
    }

    /// Bytes of its matrices.
    pub(crate) fn size_bytes(&self) -> usize {
        self.gate_up_proj.size_bytes() + self.down_proj.size_bytes()
    }

    /// # Shapes
    ///
    /// - `x`: `[seq, hidden]`, normalized; returns `[seq, hidden]`
    pub fn forward(&self, engine: &Engine, x: &[f32]) -> Vec<f32> {
        let ModelConfig { hidden_size, intermediate_size, activation_quantizer, .. } = self.config;
        let activation = match self.config.hidden_act {
            HiddenAct::Silu => Activation::Silu,
            HiddenAct::Relu2 => Activation::Relu2,
            HiddenAct::Gelu => Activation::Gelu,
        };
        let x = Activations::new(engine, x, hidden_size, activation_quantizer);
        let y = self.gate_up_proj.forward(engine, &x);
        let mut inner = vec![0.0; x.seq() * intermediate_size]; // [seq, intermediate]
        if self.config.mlp_gate {
            engine.pool.write_chunks(&mut inner, TOKENS * intermediate_size, |task, inner| {
                let tokens = y.chunks_exact(2 * intermediate_size); // [seq, 2, intermediate]
                let tokens = tokens.skip(task * TOKENS);
                for (token, inner) in tokens.zip(inner.chunks_exact_mut(intermediate_size)) {
                    let (gates, up) = token.split_at(intermediate_size);
                    gate(activation, gates, up, inner);
                }
            });
        } else {
            activate(activation, &y, &mut inner);
        }
        if let Some(norm) = &self.ffn_sub_norm {
            inner = norm.forward(&inner);
        }
        let x = Activations::new(engine, &inner, intermediate_size, activation_quantizer);
        self.down_proj.forward(engine, &x)
    }
}
