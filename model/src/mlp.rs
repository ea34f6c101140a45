//! The gated feed-forward block.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use tern_format::config::ModelConfig;

use crate::bit_linear::BitLinear;
use crate::fused;
use crate::parameters::Init;

/// SwiGLU: `down(silu(gate(x)) * up(x))` (arXiv:2002.05202 section 2).
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[intermediate, hidden]`
    pub gate_proj: BitLinear,
    /// `[intermediate, hidden]`
    pub up_proj: BitLinear,
    /// `[hidden, intermediate]`
    pub down_proj: BitLinear,
}

impl Mlp {
    /// Fresh weights.
    pub fn init(config: &ModelConfig, init: &mut Init, device: &Device) -> Self {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        Self {
            gate_proj: BitLinear::init(config, [intermediate, hidden], init, device),
            up_proj: BitLinear::init(config, [intermediate, hidden], init, device),
            down_proj: BitLinear::init(config, [hidden, intermediate], init, device),
        }
    }

    /// # Shapes
    ///
    /// - `x`: `[rows, hidden]`
    /// - returns `[rows, hidden]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let gate = self.gate_proj.forward(x.clone()); // [rows, intermediate]
        let up = self.up_proj.forward(x); // [rows, intermediate]
        self.down_proj.forward(fused::swiglu(gate, up))
    }
}
