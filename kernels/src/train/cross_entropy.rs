//! Cross-entropy of logits against token ids, and its gradient.

use rayon::prelude::*;

use crate::exp::exp;
use crate::simd::{max, simd, sum};

/// Rows in one task, and in one partial sum of the loss.
const ROWS: usize = 64;

/// The mean of `-ln softmax(logits)[target]` over the rows, summed in f64, and its gradient
/// `(softmax(logits) - onehot(target)) / rows` if asked for.
///
/// # Shapes
///
/// - `logits`, `gradient`: `[rows, vocab]`
/// - `targets`: `[rows]`, each below `vocab`
///
/// # Panics
///
/// If the shapes disagree or a target is outside the vocabulary.
pub fn cross_entropy(
    logits: &[f32],
    targets: &[u32],
    vocab: usize,
    gradient: Option<&mut [f32]>,
) -> f32 {
    let rows = targets.len();
    assert_eq!(logits.len(), rows * vocab, "logits of {rows} x {vocab}");
    assert!(targets.iter().all(|&target| (target as usize) < vocab), "target outside {vocab}");
    let (chunk, scale) = (ROWS * vocab.max(1), 1.0 / rows as f32);
    let parts: Vec<f64> = match gradient {
        Some(gradient) => {
            assert_eq!(gradient.len(), logits.len());
            logits
                .par_chunks(chunk)
                .zip(targets.par_chunks(ROWS))
                .zip(gradient.par_chunks_mut(chunk))
                .map(|((logits, targets), gradient)| {
                    with_gradient(logits, targets, vocab, scale, gradient)
                })
                .collect()
        }
        None => logits
            .par_chunks(chunk)
            .zip(targets.par_chunks(ROWS))
            .map(|(logits, targets)| loss_only(logits, targets, vocab))
            .collect(),
    };
    (parts.iter().sum::<f64>() / rows as f64) as f32
}

simd! {
    fn loss_only<'a>(logits: &'a [f32], targets: &'a [u32], vocab: usize) -> f64 {
        let mut loss = 0.0;
        for (logits, &target) in logits.chunks_exact(vocab).zip(targets) {
            let max = max(logits);
            let total = sum([logits], |[logit]| exp(logit - max));
            loss += f64::from(total).ln() - f64::from(logits[target as usize] - max);
        }
        loss
    }
}

simd! {
    fn with_gradient<'a>(
        logits: &'a [f32],
        targets: &'a [u32],
        vocab: usize,
        scale: f32,
        gradient: &'a mut [f32],
    ) -> f64 {
        let mut loss = 0.0;
        for ((logits, &target), gradient) in
            logits.chunks_exact(vocab).zip(targets).zip(gradient.chunks_exact_mut(vocab))
        {
            let max = max(logits);
            for (gradient, logit) in gradient.iter_mut().zip(logits) {
                *gradient = exp(logit - max);
            }
            let total = sum([gradient], |[x]| x);
            loss += f64::from(total).ln() - f64::from(logits[target as usize] - max);
            let factor = scale / total;
            for gradient in gradient.iter_mut() {
                *gradient *= factor;
            }
            gradient[target as usize] -= scale;
        }
        loss
    }
}
