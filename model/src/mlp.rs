//! The feed-forward block.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use tern_format::config::{self, HiddenAct, ModelConfig};

use crate::bit_linear::BitLinear;
use crate::fused::{self, Activation};
use crate::norm::Norm;
use crate::parameters::Init;

/// `down(norm(act(gate(x)) * up(x)))` (arXiv:2002.05202 section 2), or without a gate `down(norm(act(up(x))))`; the norm is
/// BitNet's sub-norm (arXiv:2504.12285), where the model has one.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[intermediate, hidden]`
    pub gate_proj: Option<BitLinear>,
    /// `[intermediate, hidden]`
    pub up_proj: BitLinear,
    /// Over `intermediate` channels.
    pub ffn_sub_norm: Option<Norm>,
    /// `[hidden, intermediate]`
    pub down_proj: BitLinear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    /// Fresh weights.
    pub fn init(config: &ModelConfig, init: &mut Init, device: &Device) -> Self {
        let sub_norm = || Norm::init(config::Norm::Rms, config.intermediate_size, config, device);
        let (gate, [up, down]) = config.mlp_linears();
        let mut linear = |shape| BitLinear::init(config, shape, init, device);
        Self {
            gate_proj: gate.map(&mut linear),
            up_proj: linear(up),
            ffn_sub_norm: config.sub_norm.then(sub_norm),
            down_proj: linear(down),
            activation: match config.hidden_act {
                HiddenAct::Silu => Activation::Silu,
                HiddenAct::Relu2 => Activation::Relu2,
                HiddenAct::Gelu => Activation::Gelu,
            },
        }
    }

    /// # Shapes
    ///
    /// - `x`: `[rows, hidden]`
    /// - returns `[rows, hidden]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let inner = match &self.gate_proj {
            None => fused::activate(self.activation, self.up_proj.forward(x)),
            Some(gate_proj) => {
                let gate = gate_proj.forward(x.clone()); // [rows, intermediate]
                let up = self.up_proj.forward(x); // [rows, intermediate]
                fused::gate(self.activation, gate, up)
            }
        };
        let inner = match &self.ffn_sub_norm {
            None => inner,
            Some(norm) => norm.forward(inner),
        };
        self.down_proj.forward(inner)
    }
}
