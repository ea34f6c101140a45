//! Choices, and what they are worth.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of choices that sums up its own information content.
///
/// ChaCha8 with the seed as its key and the index as its stream: any story can be drawn without those before it.
pub(super) struct Chance {
    rng: ChaCha8Rng,
    bits: f64,
}

impl Chance {
    pub(super) fn new(seed: u64, index: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(index);
        Self { rng, bits: 0.0 }
    }

    /// Chooses among alternatives by weight and returns which; 0 if there is nothing to choose.
    pub(super) fn weighted(&mut self, weights: impl Iterator<Item = u32> + Clone) -> usize {
        let total: u64 = weights.clone().map(u64::from).sum();
        if total == 0 {
            return 0;
        }
        // The high half of a product maps 64 random bits onto 0..total; a weight is off by at most total / 2^64.
        let mut left = ((u128::from(self.rng.next_u64()) * u128::from(total)) >> 64) as u64;
        for (i, weight) in weights.enumerate() {
            let weight = u64::from(weight);
            if left < weight {
                self.bits += (total as f64 / weight as f64).log2();
                return i;
            }
            left -= weight;
        }
        0
    }

    /// `-log2` of the probability of all choices so far.
    pub(super) fn bits(&self) -> f64 {
        self.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_kept_and_bits_add_up() {
        let weights = [1, 0, 2, 5];
        let mut counts = [0u32; 4];
        for index in 0..8000 {
            let mut chance = Chance::new(1, index);
            let i = chance.weighted(weights.iter().copied());
            counts[i] += 1;
            assert_eq!(chance.bits(), (8.0 / f64::from(weights[i])).log2());
        }
        assert_eq!(counts[1], 0);
        for (count, weight) in counts.iter().zip(weights) {
            // Five standard deviations of the binomial are at most 224.
            assert!(count.abs_diff(weight * 1000) <= 224, "{counts:?}");
        }
    }

    #[test]
    fn nothing_to_choose_is_worth_nothing() {
        let mut chance = Chance::new(1, 1);
        assert_eq!(chance.weighted([].into_iter()), 0);
        assert_eq!(chance.weighted([3].into_iter()), 0);
        assert_eq!(chance.bits(), 0.0);
    }
}
