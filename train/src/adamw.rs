//! AdamW: Adam with decoupled weight decay.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tern_model::fused::{self, Moved};
use tern_model::parameters::{HostTensor, Map, map, values};

use crate::gradients::Gradients;

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

/// The `[train.optimizer]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// The optimizer; `adamw` is the one there is.
    pub kind: OptimizerKind,
    /// Peak learning rate. Unit: per step.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub learning_rate: f64,
    /// Share of a weight that a step takes off, times the learning rate. Unit: none.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Which parameters decay.
    pub decay: Decay,
    /// Decay of the first and of the second moment, each from 0 to below 1. Unit: per step.
    pub betas: [f64; 2],
    /// Added to the root of the second moment. Unit: none.
    #[schemars(range(min = 0.0))]
    pub eps: f64,
}

/// The optimizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// arXiv:1711.05101.
    AdamW,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::AdamW,
            learning_rate: 1.5e-3,
            weight_decay: 0.1,
            decay: Decay::All,
            betas: [0.9, 0.95],
            eps: 1e-8,
        }
    }
}

/// Moments of every parameter, flattened.
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    first: BTreeMap<String, Tensor<1>>,
    second: BTreeMap<String, Tensor<1>>,
}

impl AdamW {
    /// An optimizer before its first step.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, step: 0, first: BTreeMap::new(), second: BTreeMap::new() }
    }

    /// Updates every parameter that has a gradient; those without keep their value and do not decay.
    ///
    /// See [`fused::AdamW::update`] for the formula (arXiv:1711.05101 algorithm 2, as in torch).
    pub fn step<M: Module>(&mut self, model: M, gradients: Gradients, learning_rate: f64) -> M {
        self.step += 1;
        map(model, &mut Update { gradients, learning_rate, optimizer: self })
    }

    /// The moments on the host: `first.NAME` and `second.NAME`.
    pub fn state(&self) -> Vec<(String, HostTensor)> {
        [("first", &self.first), ("second", &self.second)]
            .into_iter()
            .flat_map(|(moment, all)| {
                all.iter().map(move |(name, tensor)| {
                    let values = values(tensor.clone());
                    (format!("{moment}.{name}"), (vec![values.len()], values))
                })
            })
            .collect()
    }

    /// An optimizer that goes on after `step` steps with the moments of [`AdamW::state`].
    pub fn resume(
        config: AdamWConfig,
        step: u64,
        state: BTreeMap<String, HostTensor>,
        device: &Device,
    ) -> Self {
        let mut optimizer = Self { step, ..Self::new(config) };
        for (name, (shape, values)) in state {
            let moments = |values| Tensor::from_data(TensorData::new(values, shape), device);
            if let Some(name) = name.strip_prefix("first.") {
                optimizer.first.insert(name.into(), moments(values));
            } else if let Some(name) = name.strip_prefix("second.") {
                optimizer.second.insert(name.into(), moments(values));
            }
        }
        optimizer
    }

    fn decays(&self, name: &str, axes: usize) -> bool {
        match self.config.decay {
            Decay::All => true,
            Decay::Matrices => axes == 2,
            Decay::Linears => name.contains("_proj."),
        }
    }
}

struct Update<'a> {
    gradients: Gradients,
    learning_rate: f64,
    optimizer: &'a mut AdamW,
}

impl Map for Update<'_> {
    fn float<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(g) = self.gradients.remove(name) else { return param };
        let AdamWConfig { weight_decay, betas, eps, .. } = self.optimizer.config;
        let step = fused::AdamW {
            learning_rate: self.learning_rate,
            weight_decay: if self.optimizer.decays(name, D) { weight_decay } else { 0.0 },
            betas,
            eps,
            step: self.optimizer.step,
        };
        let (id, tensor, mapper) = param.consume();
        let shape = tensor.shape();
        let moments = |all: &mut BTreeMap<String, Tensor<1>>| {
            all.remove(name).unwrap_or_else(|| g.zeros_like())
        };
        let m = moments(&mut self.optimizer.first);
        let v = moments(&mut self.optimizer.second);
        let p = tensor.inner().flatten::<1>(0, D - 1);
        let Moved { p, m, v } = fused::adamw(&step, Moved { p, m, v }, g);
        self.optimizer.first.insert(name.to_owned(), m);
        self.optimizer.second.insert(name.to_owned(), v);
        let p = Tensor::from_inner(p.reshape(shape)).require_grad();
        Param::from_mapped_value(id, p, mapper)
    }
}
