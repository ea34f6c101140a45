//! Guards: a step that is not finite never reaches the weights, and a loss that jumps is reported.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `[train.guard]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GuardConfig {
    /// Steps skipped in a row, because their loss or gradient was not finite, after which the run goes back to its last
    /// good state and stops. Unit: steps.
    #[schemars(range(min = 1, max = 4_294_967_296_u64))]
    pub most_skipped: u64,
    /// How many standard deviations above its running mean a loss is reported as a spike; 0 reports none.
    /// Unit: standard deviations.
    #[schemars(range(min = 0.0))]
    pub spike_deviations: f64,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self { most_skipped: 5, spike_deviations: 6.0 }
    }
}

/// Share of the old mean that one more step leaves: a memory of about a hundred steps.
const DECAY: f64 = 0.99;

/// Steps before a running mean says anything.
const STEPS_TO_SETTLE: u64 = 20;

/// What the guards remember between steps; part of a checkpoint, so that a resumed run judges as one never stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// Steps skipped so far.
    pub skipped: u64,
    /// The last of them, without a good step since.
    pub skipped_in_row: u64,
    /// Losses in the running mean.
    count: u64,
    /// Running mean of the loss, nats per token.
    mean: f64,
    /// Running variance around it.
    variance: f64,
}

/// A loss far above the losses before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spike {
    /// Running mean before the step, nats per token.
    pub mean: f64,
    /// How many standard deviations the loss is above it.
    pub deviations: f64,
}

impl Guard {
    /// Counts a step that was skipped.
    pub fn skip(&mut self) {
        self.skipped += 1;
        self.skipped_in_row += 1;
    }

    /// Forgets the last row of skipped steps and returns its length.
    pub fn forget_skipped(&mut self) -> u64 {
        let row = std::mem::take(&mut self.skipped_in_row);
        self.skipped = self.skipped.saturating_sub(row);
        row
    }

    /// Takes the loss of a good step into the running mean; a spike against the mean before it is returned.
    ///
    /// Mean and variance decay exponentially (West 1979, with a weight of `1 - DECAY` for the newest loss).
    pub fn observe(&mut self, loss: f64, config: &GuardConfig) -> Option<Spike> {
        self.skipped_in_row = 0;
        self.count += 1;
        // The first losses weigh equally, until the memory is full.
        let weight = (1.0 / self.count as f64).max(1.0 - DECAY);
        let difference = loss - self.mean;
        let deviations = difference / self.variance.sqrt();
        let spike = self.count > STEPS_TO_SETTLE
            && config.spike_deviations > 0.0
            && deviations > config.spike_deviations;
        let spike = spike.then_some(Spike { mean: self.mean, deviations });
        self.mean += weight * difference;
        self.variance = (1.0 - weight) * (self.variance + weight * difference * difference);
        spike
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loss that wavers by a hundredth around 2.
    fn settled() -> Guard {
        let mut guard = Guard::default();
        for step in 0..100 {
            let loss = if step % 2 == 0 { 1.99 } else { 2.01 };
            assert_eq!(guard.observe(loss, &GuardConfig::default()), None);
        }
        guard
    }

    #[test]
    fn a_loss_far_above_its_mean_is_a_spike_and_one_below_is_not() {
        let spike = settled().observe(2.1, &GuardConfig::default());
        assert!(spike.is_some_and(|s| (s.mean - 2.0).abs() < 0.01 && s.deviations > 6.0));
        assert_eq!(settled().observe(1.0, &GuardConfig::default()), None);
        let silent = GuardConfig { spike_deviations: 0.0, ..GuardConfig::default() };
        assert_eq!(settled().observe(9.0, &silent), None);
    }

    #[test]
    fn a_good_step_ends_a_row_of_skipped_ones() {
        let mut guard = settled();
        guard.skip();
        guard.skip();
        assert_eq!((guard.skipped, guard.skipped_in_row), (2, 2));
        guard.observe(2.0, &GuardConfig::default());
        assert_eq!((guard.skipped, guard.skipped_in_row), (2, 0));
    }

    #[test]
    fn it_reads_back_to_the_bit() {
        let mut guard = Guard::default();
        for step in 1..1_000 {
            guard.observe(1.0 / f64::from(step).sqrt() + 0.1, &GuardConfig::default());
            let text = serde_json::to_string(&guard).unwrap_or_default();
            let again: Guard = serde_json::from_str(&text).unwrap_or_default();
            assert_eq!(again, guard);
        }
    }
}
