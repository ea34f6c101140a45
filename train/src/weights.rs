//! What the projection of the weights would be now: a line of `weights.jsonl`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tern_format::config::ModelConfig;
use tern_kernels::ternarize::{collapse_floor, ternarize_as_one};
use tern_model::Decoder;

use crate::export::latent;

/// The ternary matrices of a model as they stand, one line of `weights.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// Optimizer steps taken.
    pub step: u64,
    /// Share of zeros among all trits.
    pub zeros: f64,
    /// Every ternary matrix by name.
    pub tensors: BTreeMap<String, Projection>,
}

/// One matrix, projected.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Projection {
    /// Share of zeros among its trits.
    pub zeros: f64,
    /// Its scale, the mean of the absolute latent weights; of all matrices that are one to the quantizer.
    pub scale: f32,
}

impl Weights {
    /// Projects every ternary matrix and counts; none if the model has no such matrix.
    pub fn measure(model: &Decoder, config: &ModelConfig, step: u64) -> Option<Self> {
        if !config.is_ternary() {
            return None;
        }
        let (mut zeros, mut trits_in_all) = (0, 0);
        let mut latent = latent(model, config);
        let mut tensors = BTreeMap::new();
        for group in config.ternary_groups() {
            let names: Vec<_> = group.into_iter().map(|(name, _)| name).collect();
            let values: Vec<_> = names
                .iter()
                .filter_map(|name| latent.remove(name))
                .map(|(_, values)| values)
                .collect();
            let (trits, scale) = ternarize_as_one(&values, config.quantizer.extra_eps());
            for (name, trits) in names.into_iter().zip(trits) {
                let zero = trits.iter().filter(|&&trit| trit == 0).count();
                zeros += zero;
                trits_in_all += trits.len();
                tensors.insert(name, Projection { zeros: zero as f64 / trits.len() as f64, scale });
            }
        }
        Some(Self { step, zeros: zeros as f64 / trits_in_all as f64, tensors })
    }

    /// The matrices that the verifier would call collapsed, and why, in words.
    pub fn collapsed(&self, config: &ModelConfig) -> Option<String> {
        let widths: BTreeMap<String, usize> = config
            .tensors()
            .into_iter()
            .filter_map(|(name, shape)| shape.get(1).map(|&d_input| (name, d_input)))
            .collect();
        let bad: Vec<String> = self
            .tensors
            .iter()
            .filter_map(|(name, projection)| {
                let floor = collapse_floor(*widths.get(name)?);
                if f64::from(projection.scale) < floor {
                    Some(format!(
                        "{name} has the scale {:.2e}, below {floor:.2e}",
                        projection.scale
                    ))
                } else if projection.zeros >= 1.0 {
                    Some(format!("{name} has no weight other than zero"))
                } else {
                    None
                }
            })
            .collect();
        match bad.len() {
            0 => None,
            1..=3 => Some(bad.join("; ")),
            n => Some(format!("{}; and {} more", bad[..3].join("; "), n - 3)),
        }
    }
}
