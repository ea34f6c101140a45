//! The gated feed-forward block.

use tern_format::config::{ActivationQuantizer, HiddenAct};
use tern_kernels::swiglu::swiglu;
use tern_kernels::ternary::Kernel;

use crate::linear::{Activations, Linear};

/// `down_proj(act(gate_proj(x)) * up_proj(x))` (SwiGLU, arXiv:2002.05202).
#[derive(Debug)]
pub struct Mlp {
    pub(crate) gate_proj: Linear,
    pub(crate) up_proj: Linear,
    pub(crate) down_proj: Linear,
    intermediate: usize,
    act: HiddenAct,
    quantizer: ActivationQuantizer,
}

impl Mlp {
    /// `[gate_proj, up_proj, down_proj]`, in the order of the forward pass.
    pub fn new(
        [gate_proj, up_proj, down_proj]: [Linear; 3],
        intermediate: usize,
        act: HiddenAct,
        quantizer: ActivationQuantizer,
    ) -> Self {
        Self { gate_proj, up_proj, down_proj, intermediate, act, quantizer }
    }

    /// # Shapes
    ///
    /// - `x`: `[seq, hidden]`, normalized; returns `[seq, hidden]`
    pub fn forward(&self, kernel: Kernel, x: &[f32], hidden: usize) -> Vec<f32> {
        let x = Activations::new(x, hidden, self.quantizer);
        let mut gate = self.gate_proj.forward(kernel, &x); // [seq, intermediate]
        let up = self.up_proj.forward(kernel, &x); // [seq, intermediate]
        match self.act {
            HiddenAct::Silu => swiglu(&mut gate, &up),
        }
        self.down_proj.forward(kernel, &Activations::new(&gate, self.intermediate, self.quantizer))
    }
}
