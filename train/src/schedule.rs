//! The learning rate as a function of the step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape of the learning rate over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Warm-up, then the peak for ever.
    Constant,
    /// Warm-up, then half a cosine down to the final rate at the last step.
    Cosine,
}

/// The `[train.schedule]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// The shape of the learning rate over the run.
    pub kind: ScheduleKind,
    /// Steps of linear warm-up from zero; the last of them has the peak rate. Unit: steps.
    pub warmup_steps: u64,
    /// The learning rate of the last step, as a share of the peak. Unit: none.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub final_ratio: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { kind: ScheduleKind::Cosine, warmup_steps: 100, final_ratio: 0.1 }
    }
}

impl ScheduleConfig {
    /// The learning rate of optimizer step `step`, counted from 1.
    ///
    /// `peak * step / warmup` while `step < warmup`, then
    /// `final + (peak - final) / 2 * (1 + cos(pi * (step - warmup) / (steps - warmup)))` (SGDR, arXiv:1608.03983
    /// equation 5, without restarts). Past the last step it stays at the final rate.
    pub fn learning_rate(&self, peak: f64, step: u64, steps: u64) -> f64 {
        if step < self.warmup_steps {
            return peak * step as f64 / self.warmup_steps as f64;
        }
        match self.kind {
            ScheduleKind::Constant => peak,
            ScheduleKind::Cosine => {
                let span = steps.saturating_sub(self.warmup_steps).max(1);
                let progress = ((step - self.warmup_steps) as f64 / span as f64).min(1.0);
                let end = peak * self.final_ratio;
                end + 0.5 * (peak - end) * (1.0 + (std::f64::consts::PI * progress).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The goldens' "nano form", computed in float64 by independent Python.
    #[test]
    fn cosine_meets_the_golden() {
        let schedule =
            ScheduleConfig { kind: ScheduleKind::Cosine, warmup_steps: 2, final_ratio: 0.1 };
        let expected = [
            0.0015,
            0.003,
            0.0028191342951089924,
            0.002325,
            0.00165,
            0.0009750000000000004,
            0.00048086570489100773,
            0.0003,
            0.0003,
        ];
        for (step, expected) in (1..).zip(expected) {
            let found = schedule.learning_rate(3e-3, step, 8);
            assert!((found - expected).abs() < 1e-15, "step {step}: {found} against {expected}");
        }
    }
}
