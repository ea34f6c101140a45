//! From logits to the next token.
//!
//! The steps and their order are those of Hugging Face's `generate`:
//!
//! 1. *Repetition penalty* (CTRL, arXiv:1909.05858): the logit of every token that the prompt or the
//!    text already has is divided by the penalty if positive, multiplied by it if negative.
//! 2. *Temperature*: logits are divided by it. At 0 the largest logit wins, the smallest id among equals
//!    (greedy), and the rest is skipped.
//! 3. *Top-k*: the `k` largest remain, smaller ids first among equals (Hugging Face keeps all equals).
//! 4. *Top-p* (arXiv:1904.09751): of those, with probabilities that add to 1, the likeliest remain up to and
//!    including the one with which their sum reaches `p`.
//! 5. *Min-p* (arXiv:2407.01082): those remain that are at least `min_p` times as likely as the likeliest.
//! 6. One is drawn in proportion.
//!
//! llama.cpp applies the temperature last, so its top-p and min-p see other probabilities.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tern_format::packed::GenerationDefaults;

use crate::error::{Error, Result};

/// What the sampler does to the logits; see the module for the order.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keeps this many; 0 keeps all.
    pub top_k: usize,
    /// Keeps this share of the probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps what is at least this share of the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Weakens what is there already; 1 changes nothing.
    pub repetition_penalty: f32,
    /// The same seed draws the same tokens from the same logits.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self::from(&GenerationDefaults::default())
    }
}

impl From<&GenerationDefaults> for Settings {
    fn from(defaults: &GenerationDefaults) -> Self {
        Self {
            temperature: defaults.temperature,
            top_k: defaults.top_k,
            top_p: defaults.top_p,
            min_p: defaults.min_p,
            repetition_penalty: defaults.repetition_penalty,
            seed: 0,
        }
    }
}

impl Settings {
    /// Takes the largest logit, always.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }

    /// Checks every setting against its rule.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] with the first that breaks it.
    pub fn validate(&self) -> Result<()> {
        let Self { temperature, top_k, top_p, min_p, repetition_penalty, seed: _ } = *self;
        let rest = GenerationDefaults::default();
        GenerationDefaults { temperature, top_k, top_p, min_p, repetition_penalty, ..rest }
            .validate()
            .map_err(|(key, rule)| Error::Setting { key, rule })
    }
}

/// Draws tokens; its state is the tokens seen and the place in the random stream.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: Settings,
    seen: BTreeSet<u32>,
    position: usize,
    random: ChaCha8Rng,
}

impl Sampler {
    /// A sampler that has seen nothing.
    ///
    /// # Errors
    ///
    /// A setting that breaks its rule.
    pub fn new(settings: Settings) -> Result<Self> {
        settings.validate()?;
        let random = ChaCha8Rng::seed_from_u64(settings.seed);
        Ok(Self { settings, seen: BTreeSet::new(), position: 0, random })
    }

    /// Counts tokens as there already: the prompt. What [`Self::sample`] returns is counted by itself.
    pub fn accept(&mut self, ids: &[u32]) {
        self.seen.extend(ids);
        self.position += ids.len();
    }

    /// How many of the largest logits decide the next token; none if it takes all.
    ///
    /// A penalty lowers those of tokens seen, so as many more may move up.
    pub fn wanted(&self) -> Option<usize> {
        let Settings { temperature, top_k, repetition_penalty, .. } = self.settings;
        let most = if temperature == 0.0 { 1 } else { top_k };
        // A penalty below 1 raises them, from any place.
        (most > 0 && repetition_penalty >= 1.0)
            .then(|| most + if repetition_penalty == 1.0 { 0 } else { self.seen.len() })
    }

    /// The next token. NaN counts as minus infinity.
    ///
    /// One call takes one number from the random stream, whatever the settings, so the draws of one seed
    /// stay aligned.
    ///
    /// # Shapes
    ///
    /// - `logits`: `[vocab_size]`
    ///
    /// # Errors
    ///
    /// [`Error::Logits`] if a logit is infinite or none is a number.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        self.sample_among((0..).zip(logits.iter().copied()).collect())
    }

    /// [`Self::sample`] where only some logits are known: the [`Self::wanted`] largest and perhaps others, by id.
    ///
    /// # Errors
    ///
    /// As [`Self::sample`].
    pub fn sample_among(&mut self, candidates: Vec<(u32, f32)>) -> Result<u32> {
        // 53 bits: every f64 in [0, 1) that is a multiple of 2^-53.
        let draw = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let id = self.choose(candidates, draw).ok_or(Error::Logits { position: self.position })?;
        self.accept(&[id]);
        Ok(id)
    }

    fn choose(&self, mut candidates: Vec<(u32, f32)>, draw: f64) -> Option<u32> {
        let Settings { temperature, top_k, top_p, min_p, repetition_penalty, .. } = self.settings;
        if repetition_penalty != 1.0 {
            for &id in &self.seen {
                if let Ok(place) = candidates.binary_search_by_key(&id, |&(id, _)| id) {
                    let logit = &mut candidates[place].1;
                    *logit = penalized(*logit, repetition_penalty);
                }
            }
        }
        candidates.retain(|(_, logit)| !logit.is_nan() && *logit > f32::NEG_INFINITY);
        let &(likeliest, most) = candidates.iter().min_by(|a, b| likelier(a, b))?;
        if most == f32::INFINITY {
            return None;
        }
        if temperature == 0.0 {
            return Some(likeliest);
        }
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, likelier);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(likelier);
        // Shifted before the division, so that no temperature overflows.
        let weight = |logit: f32| (f64::from(logit - most) / f64::from(temperature)).exp();
        let weights: Vec<f64> = candidates.iter().map(|&(_, logit)| weight(logit)).collect();
        let kept = weights.len().min(nucleus(&weights, top_p)).min(above(&weights, min_p));
        let mut left = draw * weights[..kept].iter().sum::<f64>();
        let drawn = weights[..kept].iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        // Rounding may leave a crumb: it belongs to the last.
        candidates.get(drawn.unwrap_or(kept - 1)).map(|&(id, _)| id)
    }
}

fn penalized(logit: f32, penalty: f32) -> f32 {
    if logit < 0.0 { logit * penalty } else { logit / penalty }
}

/// Larger logits first, then smaller ids.
fn likelier(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// How many of the weights, largest first, it takes to reach the share `top_p`; at least one.
fn nucleus(weights: &[f64], top_p: f32) -> usize {
    if top_p >= 1.0 {
        return weights.len();
    }
    let enough = f64::from(top_p) * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let reached = weights.iter().position(|weight| {
        sum += weight;
        sum >= enough
    });
    reached.map_or(weights.len(), |last| last + 1)
}

/// How many of the weights, largest first, are at least `min_p` of the largest; at least one.
fn above(weights: &[f64], min_p: f32) -> usize {
    weights.partition_point(|&weight| weight >= f64::from(min_p) * weights[0]).max(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn free() -> Settings {
        Settings { temperature: 1.0, ..Settings::greedy() }
    }

    /// Which ids are ever drawn, over the whole range of draws.
    fn drawn(settings: Settings, logits: &[f32]) -> Vec<u32> {
        let sampler = Sampler::new(settings).unwrap();
        let candidates: Vec<_> = (0..).zip(logits.iter().copied()).collect();
        let draws = (0..1000).map(|i| f64::from(i) / 1000.0);
        let ids = draws.map(|draw| sampler.choose(candidates.clone(), draw).unwrap());
        ids.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Probabilities 0.4, 0.3, 0.2, 0.1, out of order.
    fn logits() -> [f32; 4] {
        [0.2f32, 0.4, 0.1, 0.3].map(f32::ln)
    }

    #[test]
    fn greedy_takes_the_largest_and_the_smallest_id_among_equals() {
        assert_eq!(drawn(Settings::greedy(), &[0.0, 3.0, 3.0, f32::NAN]), [1]);
        assert_eq!(drawn(Settings { top_k: 1, ..free() }, &[0.0, 3.0, 3.0]), [1]);
    }

    #[test]
    fn each_filter_keeps_what_it_says() {
        assert_eq!(drawn(free(), &logits()), [0, 1, 2, 3]);
        assert_eq!(drawn(Settings { top_k: 2, ..free() }, &logits()), [1, 3]);
        assert_eq!(drawn(Settings { top_k: 9, ..free() }, &logits()), [0, 1, 2, 3]);
        assert_eq!(drawn(Settings { top_p: 0.35, ..free() }, &logits()), [1]);
        assert_eq!(drawn(Settings { top_p: 0.65, ..free() }, &logits()), [1, 3]);
        assert_eq!(drawn(Settings { top_p: 0.75, ..free() }, &logits()), [0, 1, 3]);
        assert_eq!(drawn(Settings { min_p: 0.45, ..free() }, &logits()), [0, 1, 3]);
        assert_eq!(drawn(Settings { min_p: 1.0, ..free() }, &logits()), [1]);
        // Top-p sees what top-k left: 0.4 and 0.3 become 0.57 and 0.43.
        assert_eq!(drawn(Settings { top_k: 2, top_p: 0.5, ..free() }, &logits()), [1]);
        // Min-p sees the temperature: at 2, 0.1 is half as likely as 0.4.
        assert_eq!(drawn(Settings { temperature: 2.0, min_p: 0.45, ..free() }, &logits()).len(), 4);
    }

    #[test]
    fn shares_are_the_probabilities() {
        let mut sampler = Sampler::new(free()).unwrap();
        let mut counts = [0; 4];
        for _ in 0..40_000 {
            counts[sampler.sample(&logits()).unwrap() as usize] += 1;
        }
        // Four standard deviations of a share of 0.4 among 40,000.
        for (count, share) in counts.into_iter().zip([0.2, 0.4, 0.1, 0.3]) {
            assert!((f64::from(count) / 40_000.0 - share).abs() < 0.01, "{counts:?}");
        }
    }

    #[test]
    fn penalty_weakens_either_sign_once() {
        let mut sampler =
            Sampler::new(Settings { repetition_penalty: 2.0, ..Settings::greedy() }).unwrap();
        assert_eq!(sampler.sample(&[3.0, 2.0, -1.0]).unwrap(), 0);
        assert_eq!(sampler.sample(&[3.0, 2.0, -1.0]).unwrap(), 1);
        assert_eq!(sampler.sample(&[3.0, 2.0, -1.0]).unwrap(), 0);
        sampler.accept(&[0, 0, 99]);
        assert_eq!(sampler.sample(&[-1.0, -2.1, -1.9]).unwrap(), 2);
    }

    #[test]
    fn the_logits_wanted_decide_as_all_do() {
        let logits: Vec<f32> =
            (0..300).map(|i| ((i * i * 7 % 211) as f32 - 100.0) / 30.0).collect();
        let mut order: Vec<u32> = (0..300).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        for (temperature, top_k) in [(0.0, 0), (0.0, 7), (0.8, 1), (0.8, 20), (1.5, 250)] {
            for repetition_penalty in [1.0, 1.3] {
                let settings =
                    Settings { temperature, top_k, top_p: 0.9, repetition_penalty, ..free() };
                let mut all = Sampler::new(settings).unwrap();
                let mut some = all.clone();
                for _ in 0..50 {
                    let wanted = some.wanted().unwrap().min(300);
                    let mut largest = order[..wanted].to_vec();
                    largest.sort_unstable();
                    let largest = largest.into_iter().map(|id| (id, logits[id as usize])).collect();
                    assert_eq!(some.sample_among(largest).unwrap(), all.sample(&logits).unwrap());
                }
            }
        }
        assert_eq!(Sampler::new(free()).unwrap().wanted(), None);
        let raised = Settings { top_k: 5, repetition_penalty: 0.9, ..free() };
        assert_eq!(Sampler::new(raised).unwrap().wanted(), None);
    }

    #[test]
    fn a_seed_is_a_sequence() {
        let draw = |seed| {
            let mut sampler = Sampler::new(Settings { seed, ..free() }).unwrap();
            (0..32).map(|_| sampler.sample(&logits()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_tiny_temperature_is_greedy_and_does_not_overflow() {
        let settings = Settings { temperature: f32::MIN_POSITIVE, ..free() };
        assert_eq!(drawn(settings, &[1e30, 3e30, -1e30]), [1]);
    }

    #[test]
    fn broken_settings_are_named() {
        for (settings, key) in [
            (Settings { temperature: -1.0, ..free() }, "temperature"),
            (Settings { temperature: f32::NAN, ..free() }, "temperature"),
            (Settings { temperature: f32::INFINITY, ..free() }, "temperature"),
            (Settings { top_p: 0.0, ..free() }, "top_p"),
            (Settings { top_p: 1.1, ..free() }, "top_p"),
            (Settings { top_p: f32::NAN, ..free() }, "top_p"),
            (Settings { min_p: -0.1, ..free() }, "min_p"),
            (Settings { min_p: f32::NAN, ..free() }, "min_p"),
            (Settings { repetition_penalty: 0.0, ..free() }, "repetition_penalty"),
            (Settings { repetition_penalty: f32::NAN, ..free() }, "repetition_penalty"),
        ] {
            let error = Sampler::new(settings).unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }

    #[test]
    fn logits_that_say_nothing_are_an_error() {
        for logits in [&[][..], &[f32::NAN; 3], &[f32::NEG_INFINITY; 2], &[1.0, f32::INFINITY]] {
            for settings in [free(), Settings::greedy()] {
                let mut sampler = Sampler::new(settings).unwrap();
                assert!(matches!(sampler.sample(logits), Err(Error::Logits { position: 0 })));
            }
        }
    }
}
