//! One step of AdamW over a parameter, in one pass.

use rayon::prelude::*;

use crate::simd::simd;

/// Entries in one task.
const CHUNK: usize = 1 << 14;

/// What an AdamW step depends on besides the parameter (arXiv:1711.05101).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Step size.
    pub learning_rate: f64,
    /// Share of the weights, times the learning rate, that a step takes away.
    pub weight_decay: f64,
    /// Memory of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Optimizer step, from 1.
    pub step: u64,
}

impl AdamW {
    /// Moves `p` along its gradient `g`; `m` and `v` are the moments, zero before step 1. All slices have one length.
    ///
    /// As torch orders it: `p *= 1 - lr * wd`, then `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2` and
    /// `p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)`. Scalars are computed in f64, as torch does.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn update(&self, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let len = p.len();
        assert!(g.len() == len && m.len() == len && v.len() == len);
        let [b1, b2] = self.betas;
        let t = self.step.max(1) as f64;
        let lr = self.learning_rate;
        let factors = Factors {
            keep: (1.0 - lr * self.weight_decay) as f32,
            betas: [b1 as f32, b2 as f32],
            news: [(1.0 - b1) as f32, (1.0 - b2) as f32],
            step_size: (lr / (1.0 - b1.powf(t))) as f32,
            root: (1.0 - b2.powf(t)).sqrt() as f32,
            eps: self.eps as f32,
        };
        p.par_chunks_mut(CHUNK)
            .zip(g.par_chunks(CHUNK))
            .zip(m.par_chunks_mut(CHUNK))
            .zip(v.par_chunks_mut(CHUNK))
            .for_each(|(((p, g), m), v)| update(factors, p, g, m, v));
    }
}

#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    betas: [f32; 2],
    news: [f32; 2],
    step_size: f32,
    root: f32,
    eps: f32,
}

simd! {
    fn update<'a>(
        f: Factors,
        p: &'a mut [f32],
        g: &'a [f32],
        m: &'a mut [f32],
        v: &'a mut [f32],
    ) {
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            *m = f.betas[0] * *m + f.news[0] * g;
            *v = f.betas[1] * *v + f.news[1] * g * g;
            *p = *p * f.keep - f.step_size * *m / (v.sqrt() / f.root + f.eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::noise;

    #[test]
    fn follows_torch() {
        let len = 1003;
        let config = |step| AdamW {
            learning_rate: 1.5e-3,
            weight_decay: 0.1,
            betas: [0.9, 0.95],
            eps: 1e-8,
            step,
        };
        let (mut p, mut m, mut v) = (noise(len, 1), vec![0.0; len], vec![0.0; len]);
        let mut wanted: Vec<f64> = p.iter().map(|&p| f64::from(p)).collect();
        let (mut wanted_m, mut wanted_v) = (vec![0.0; len], vec![0.0; len]);
        for step in 1..=5 {
            let g = noise(len, 1 + step);
            config(step).update(&mut p, &g, &mut m, &mut v);
            for i in 0..len {
                let g = f64::from(g[i]);
                wanted[i] *= 1.0 - 1.5e-3 * 0.1;
                wanted_m[i] = 0.9 * wanted_m[i] + 0.1 * g;
                wanted_v[i] = 0.95 * wanted_v[i] + 0.05 * g * g;
                let t = step as i32;
                let (m, v) =
                    (wanted_m[i] / (1.0 - 0.9f64.powi(t)), wanted_v[i] / (1.0 - 0.95f64.powi(t)));
                wanted[i] -= 1.5e-3 * m / (v.sqrt() + 1e-8);
            }
        }
        for (p, wanted) in p.iter().zip(wanted) {
            assert!((f64::from(*p) - wanted).abs() < 3e-7, "{p} {wanted}");
        }
    }
}
