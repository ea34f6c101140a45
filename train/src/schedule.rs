//! Learning rate and weight decay as functions of the step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, rule};

/// The shape of the learning rate over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Warm-up, then the peak for ever.
    Constant,
    /// Warm-up, then straight down to the final rate at the last step.
    Linear,
    /// Warm-up, then half a cosine down to the final rate at the last step.
    Cosine,
    /// Warm-up, stable, decay: the peak for most of the run, then straight down to the final rate at the last step.
    Wsd,
    /// BitNet's: as linear, but from some step on with a lower peak and another weight decay.
    TwoStage,
}

/// The `[train.schedule]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// The shape of the learning rate over the run.
    pub kind: ScheduleKind,
    /// Steps of linear warm-up from zero; the last of them has the peak rate. Unit: steps.
    pub warmup_steps: u64,
    /// The learning rate of the last step, as a share of the peak, in a two-stage schedule of the second peak; a constant
    /// schedule ignores it. Unit: none.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub final_ratio: f64,
    /// Share of all steps, the last ones, over which a wsd schedule decays. Unit: none.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1.0))]
    pub decay_share: f64,
    /// Share of all steps after which the second stage of a two-stage schedule begins. Unit: none.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub second_stage_after: f64,
    /// Peak learning rate of the second stage, as a share of the first's. Unit: none.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub second_stage_ratio: f64,
    /// Weight decay of the second stage, as a share of the first's. Unit: none.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub second_stage_decay_ratio: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Cosine,
            warmup_steps: 100,
            final_ratio: 0.1,
            decay_share: 0.2,
            second_stage_after: 0.5,
            second_stage_ratio: 2.0 / 3.0,
            second_stage_decay_ratio: 0.0,
        }
    }
}

/// What a step has of the peaks that the optimizer is configured with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// Of the learning rate.
    pub learning_rate: f64,
    /// Of the weight decay.
    pub weight_decay: f64,
}

impl Default for Shares {
    /// The peaks themselves.
    fn default() -> Self {
        Self { learning_rate: 1.0, weight_decay: 1.0 }
    }
}

impl ScheduleConfig {
    /// Learning rate and weight decay of optimizer step `step`, counted from 1, in a run of `steps`.
    ///
    /// The learning rate is `step / warmup` while `step < warmup`, then with `t = (step - warmup) / (steps - warmup)`:
    ///
    /// - cosine: `final + (1 - final) / 2 * (1 + cos(pi * t))` (SGDR, arXiv:1608.03983 equation 5, without restarts);
    /// - linear: `1 - (1 - final) * t`;
    /// - wsd: the same, but with `t` counted over the last `decay_share` of the steps (arXiv:2405.18392);
    /// - two-stage: linear, and `second_stage_ratio` times that in the second stage. The defaults are BitNet's for 700 M
    ///   parameters: peaks of 1.5e-3 and 1e-3, weight decays of 0.1 and 0 ("The Era of 1-bit LLMs: Training Tips, Code and
    ///   FAQ"); its final rate is 0.
    ///
    /// Past the last step it stays at the final rate.
    pub fn at(&self, step: u64, steps: u64) -> Shares {
        let mut shares = Shares { learning_rate: self.shape(step, steps), weight_decay: 1.0 };
        let second = step as f64 > self.second_stage_after * steps as f64;
        if self.kind == ScheduleKind::TwoStage && second {
            shares.learning_rate *= self.second_stage_ratio;
            shares.weight_decay = self.second_stage_decay_ratio;
        }
        shares
    }

    /// The learning rate without stages.
    fn shape(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let (now, warmup, steps) = (step as f64, self.warmup_steps as f64, steps as f64);
        let after_warmup = ((now - warmup) / (steps - warmup).max(1.0)).min(1.0);
        let down = 1.0 - self.final_ratio;
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Cosine => {
                self.final_ratio + 0.5 * down * (1.0 + (std::f64::consts::PI * after_warmup).cos())
            }
            ScheduleKind::Linear | ScheduleKind::TwoStage => 1.0 - down * after_warmup,
            ScheduleKind::Wsd => {
                let span = self.decay_share * steps;
                1.0 - down * ((now - (steps - span)) / span).clamp(0.0, 1.0)
            }
        }
    }

    /// Whether every key is in its range.
    pub(crate) fn validate(&self) -> Result<()> {
        for (key, value) in [
            ("final_ratio", self.final_ratio),
            ("second_stage_after", self.second_stage_after),
            ("second_stage_ratio", self.second_stage_ratio),
            ("second_stage_decay_ratio", self.second_stage_decay_ratio),
        ] {
            let key = format!("train.schedule.{key}");
            rule((0.0..=1.0).contains(&value), &key, format!("must be 0 to 1, is {value}"))?;
        }
        let share = self.decay_share;
        rule(
            share > 0.0 && share <= 1.0,
            "train.schedule.decay_share",
            format!("must be above 0 and at most 1, is {share}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: &ScheduleConfig, steps: &[u64], of: u64) -> Vec<f64> {
        steps.iter().map(|&step| schedule.at(step, of).learning_rate).collect()
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{found} against {expected}");
        }
    }

    #[test]
    fn linear_goes_straight_from_the_peak_to_the_final_rate() {
        let schedule = ScheduleConfig {
            kind: ScheduleKind::Linear,
            warmup_steps: 2,
            final_ratio: 0.2,
            ..Default::default()
        };
        close(&rates(&schedule, &[1, 2, 4, 6, 10, 11], 10), &[0.5, 1.0, 0.8, 0.6, 0.2, 0.2]);
        let schedule = ScheduleConfig { kind: ScheduleKind::Constant, ..schedule };
        close(&rates(&schedule, &[1, 2, 10, 99], 10), &[0.5, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn wsd_stays_at_the_peak_until_its_decay() {
        let schedule = ScheduleConfig {
            kind: ScheduleKind::Wsd,
            warmup_steps: 4,
            final_ratio: 0.0,
            decay_share: 0.25,
            ..Default::default()
        };
        close(&rates(&schedule, &[1, 4, 15, 16, 18, 20], 20), &[0.25, 1.0, 1.0, 0.8, 0.4, 0.0]);
    }

    /// 700 M parameters in "Training Tips, Code and FAQ": a line from 1.5e-3 to zero, and from half of the run on one from 1e-3.
    #[test]
    fn two_stages_drop_learning_rate_and_weight_decay_midway() {
        let schedule = ScheduleConfig {
            kind: ScheduleKind::TwoStage,
            warmup_steps: 375,
            final_ratio: 0.0,
            ..Default::default()
        };
        let steps = 50_375;
        let at = |step| schedule.at(step, steps);
        close(&[at(375).learning_rate, at(steps).learning_rate], &[1.0, 0.0]);
        let before = at(25_187);
        let after = at(25_188);
        assert_eq!((before.weight_decay, after.weight_decay), (1.0, 0.0));
        // One step of the line apart, but for the drop.
        let line = |step: u64| 1.0 - (step - 375) as f64 / 50_000.0;
        close(
            &[before.learning_rate, after.learning_rate],
            &[line(25_187), line(25_188) * 2.0 / 3.0],
        );
        assert_eq!(at(1).weight_decay, 1.0);
    }
}
