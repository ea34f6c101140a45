//! The optimizer: which rule moves which parameter, and what is remembered between steps.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tern_model::fused;
use tern_model::parameters::{HostTensor, Map, map, values};

use crate::adamw;
use crate::error::{Result, rule};
use crate::gradients::Gradients;
use crate::muon::Muon;
use crate::schedule::Shares;

/// The `[train.optimizer]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// The rule that moves the parameters.
    pub kind: OptimizerKind,
    /// Peak learning rate. Unit: per step.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub learning_rate: f64,
    /// Share of a weight that a step takes off, times the learning rate. Unit: none.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Which parameters decay.
    pub decay: Decay,
    /// AdamW's decay of the first and of the second moment, each from 0 to below 1. Unit: per step.
    pub betas: [f64; 2],
    /// Added by AdamW to the root of the second moment. Unit: none.
    #[schemars(range(min = 0.0))]
    pub eps: f64,
    /// What Muon's momentum keeps of itself. Unit: per step.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub momentum: f64,
    /// Whether Muon's momentum looks one step ahead.
    pub nesterov: bool,
    /// Iterations that orthogonalize Muon's momentum. Unit: iterations.
    #[schemars(range(min = 1, max = 100))]
    pub newton_schulz_steps: u32,
    /// Learning rate of what AdamW moves beside Muon, as a share of `learning_rate`. Unit: none.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub adamw_ratio: f64,
}

/// The optimizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW for every parameter (arXiv:1711.05101).
    AdamW,
    /// Muon for the linear layers of the blocks, its updates scaled to AdamW's (arXiv:2502.16982), AdamW for the rest:
    /// embeddings, heads, norms and biases.
    Muon,
}

/// Which parameters decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Every parameter: matrices, embeddings and gains.
    All,
    /// Parameters of two axes: matrices and embeddings, not gains.
    Matrices,
    /// The linear layers of the blocks alone.
    Linears,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::AdamW,
            learning_rate: 1.5e-3,
            weight_decay: 0.1,
            decay: Decay::All,
            betas: [0.9, 0.95],
            eps: 1e-8,
            momentum: 0.95,
            nesterov: true,
            newton_schulz_steps: 5,
            adamw_ratio: 1.0,
        }
    }
}

/// Whether a parameter is the matrix of a linear layer in a block.
fn is_linear(name: &str) -> bool {
    name.ends_with("_proj.weight")
}

impl OptimizerConfig {
    /// Floats that the optimizer keeps for a model of so many parameters, `linear` of them in the linear layers of its blocks.
    pub(crate) fn state_floats(&self, parameters: u64, linear: u64) -> u64 {
        match self.kind {
            OptimizerKind::AdamW => 2 * parameters,
            OptimizerKind::Muon => 2 * parameters - linear,
        }
    }

    /// Whether the tensors of a checkpoint are what this optimizer remembers.
    ///
    /// # Errors
    ///
    /// Names the first that is not, and the optimizer.
    pub(crate) fn check<'a>(
        &self,
        names: impl IntoIterator<Item = &'a String>,
    ) -> std::result::Result<(), String> {
        for name in names {
            let (slot, parameter) = name.split_once('.').unwrap_or_default();
            let known: &[&str] = match self.kind {
                OptimizerKind::Muon if is_linear(parameter) => &["momentum"],
                _ => &["first", "second"],
            };
            if !known.contains(&slot) {
                let kind = match self.kind {
                    OptimizerKind::AdamW => "adamw",
                    OptimizerKind::Muon => "muon",
                };
                return Err(format!(
                    "was written by another optimizer than train.optimizer.kind, {kind}, which has no tensor {name}"
                ));
            }
        }
        Ok(())
    }

    /// Whether every key is in its range.
    pub(crate) fn validate(&self) -> Result<()> {
        // Weights are moved in single precision.
        let finite = |value: f64| (value as f32).is_finite();
        for (key, value) in
            [("learning_rate", self.learning_rate), ("adamw_ratio", self.adamw_ratio)]
        {
            rule(
                finite(value) && value > 0.0,
                &format!("train.optimizer.{key}"),
                format!("must be positive and finite in single precision, is {value:?}"),
            )?;
        }
        for (key, value) in [("weight_decay", self.weight_decay), ("eps", self.eps)] {
            rule(
                finite(value) && value >= 0.0,
                &format!("train.optimizer.{key}"),
                format!("must be at least 0 and finite in single precision, is {value:?}"),
            )?;
        }
        let [first, second] = self.betas;
        for (key, value) in [("betas", first), ("betas", second), ("momentum", self.momentum)] {
            let verb = if key == "betas" { "has" } else { "is" };
            rule(
                (0.0..1.0).contains(&value),
                &format!("train.optimizer.{key}"),
                format!("must be at least 0 and below 1, {verb} {value}"),
            )?;
        }
        let steps = self.newton_schulz_steps;
        rule(
            (1..=100).contains(&steps),
            "train.optimizer.newton_schulz_steps",
            format!("must be 1 to 100, is {steps}"),
        )
    }
}

/// What an optimizer remembers, flattened: AdamW's `first.NAME` and `second.NAME`, Muon's `momentum.NAME`.
pub(crate) type State = BTreeMap<String, Tensor<1>>;

/// Takes a tensor of the state; zeros like `g` before the first step.
pub(crate) fn take(state: &mut State, name: &str, g: &Tensor<1>) -> Tensor<1> {
    state.remove(name).unwrap_or_else(|| g.zeros_like())
}

/// The optimizer of a run.
pub struct Optimizer {
    config: OptimizerConfig,
    step: u64,
    state: State,
}

impl Optimizer {
    /// An optimizer before its first step.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, step: 0, state: State::new() }
    }

    /// Updates every parameter that has a gradient; those without keep their value and do not decay.
    ///
    /// `shares` says what of the configured learning rate and weight decay the step has.
    pub fn step<M: Module>(&mut self, model: M, gradients: Gradients, shares: Shares) -> M {
        self.step += 1;
        map(model, &mut Update { gradients, shares, optimizer: self })
    }

    /// What it remembers, on the host.
    pub fn state(&self) -> Vec<(String, HostTensor)> {
        let host = |tensor: &Tensor<1>| {
            let values = values(tensor.clone());
            (vec![values.len()], values)
        };
        self.state.iter().map(|(name, tensor)| (name.clone(), host(tensor))).collect()
    }

    /// An optimizer that goes on after `step` steps with what [`Optimizer::state`] gave.
    pub fn resume(
        config: OptimizerConfig,
        step: u64,
        state: BTreeMap<String, HostTensor>,
        device: &Device,
    ) -> Self {
        let tensor = |(shape, values)| {
            Tensor::from_data(TensorData::new::<f32, Vec<usize>>(values, shape), device)
        };
        let state = state.into_iter().map(|(name, host)| (name, tensor(host))).collect();
        Self { config, step, state }
    }

    fn decays(&self, name: &str, axes: usize) -> bool {
        match self.config.decay {
            Decay::All => true,
            Decay::Matrices => axes == 2,
            Decay::Linears => is_linear(name),
        }
    }
}

struct Update<'a> {
    gradients: Gradients,
    shares: Shares,
    optimizer: &'a mut Optimizer,
}

impl Map for Update<'_> {
    fn float<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(g) = self.gradients.remove(name) else { return param };
        let Optimizer { config, step, .. } = &*self.optimizer;
        let learning_rate = config.learning_rate * self.shares.learning_rate;
        let weight_decay = if self.optimizer.decays(name, D) {
            config.weight_decay * self.shares.weight_decay
        } else {
            0.0
        };
        let (id, tensor, mapper) = param.consume();
        let p = tensor.inner();
        let shape = p.shape();
        let moved = if config.kind == OptimizerKind::Muon && is_linear(name) {
            let step = Muon {
                learning_rate,
                weight_decay,
                momentum: config.momentum,
                nesterov: config.nesterov,
                newton_schulz_steps: config.newton_schulz_steps,
            };
            let matrix = p.reshape([shape[0], shape[1]]);
            step.update(&mut self.optimizer.state, name, matrix, g).reshape(shape)
        } else {
            let beside_muon = config.kind == OptimizerKind::Muon;
            let ratio = if beside_muon { config.adamw_ratio } else { 1.0 };
            let step = fused::AdamW {
                learning_rate: learning_rate * ratio,
                weight_decay,
                betas: config.betas,
                eps: config.eps,
                step: *step,
            };
            let p = p.flatten::<1>(0, D - 1);
            adamw::update(&step, &mut self.optimizer.state, name, p, g).reshape(shape)
        };
        Param::from_mapped_value(id, Tensor::from_inner(moved).require_grad(), mapper)
    }
}
