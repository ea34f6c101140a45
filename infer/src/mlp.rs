//! The gated feed-forward block.

use tern_format::config::{ActivationQuantizer, HiddenAct};
use tern_kernels::swiglu::swiglu;

use crate::linear::{Activations, Engine, Linear};

/// `down_proj(act(gate_proj(x)) * up_proj(x))` (SwiGLU, arXiv:2002.05202).
#[derive(Debug)]
pub struct Mlp {
    /// `gate_proj` over `up_proj`.
    gate_up_proj: Linear,
    down_proj: Linear,
    intermediate: usize,
    act: HiddenAct,
    quantizer: ActivationQuantizer,
}

impl Mlp {
    /// `gate_up_proj` is `gate_proj` over `up_proj`.
    pub fn new(
        gate_up_proj: Linear,
        down_proj: Linear,
        intermediate: usize,
        act: HiddenAct,
        quantizer: ActivationQuantizer,
    ) -> Self {
        Self { gate_up_proj, down_proj, intermediate, act, quantizer }
    }

    /// Bytes of its matrices.
    pub(crate) fn size_bytes(&self) -> usize {
        self.gate_up_proj.size_bytes() + self.down_proj.size_bytes()
    }

    /// # Shapes
    ///
    /// - `x`: `[seq, hidden]`, normalized; returns `[seq, hidden]`
    pub fn forward(&self, engine: &Engine, x: &[f32], hidden: usize) -> Vec<f32> {
        let x = Activations::new(x, hidden, self.quantizer);
        let gate_up = self.gate_up_proj.forward(engine, &x); // [seq, 2, intermediate]
        let mut gated = vec![0.0; gate_up.len() / 2]; // [seq, intermediate]
        let tokens = gate_up.chunks_exact(2 * self.intermediate);
        for (token, gated) in tokens.zip(gated.chunks_exact_mut(self.intermediate)) {
            let (gate, up) = token.split_at(self.intermediate);
            match self.act {
                HiddenAct::Silu => swiglu(gate, up, gated),
            }
        }
        let x = Activations::new(&gated, self.intermediate, self.quantizer);
        self.down_proj.forward(engine, &x)
    }
}
