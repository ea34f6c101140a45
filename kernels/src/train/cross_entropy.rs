//! Cross-entropy of logits against token ids, and its gradient.

use rayon::prelude::*;

use crate::exp::exp;
use crate::simd::{max, simd, sum};

/// Rows in one task, and in one partial sum of the loss.
const ROWS: usize = 64;

/// The mean of `-ln softmax(logits)[target]` over the rows, summed in f64.
///
/// # Shapes
///
/// - `logits`: `[rows, vocab]`
/// - `targets`: `[rows]`, each below `vocab`
///
/// # Panics
///
/// If the shapes disagree or a target is outside the vocabulary.
pub fn cross_entropy(logits: &[f32], targets: &[u32], vocab: usize) -> f32 {
    let rows = checked(logits.len(), targets, vocab);
    let parts: Vec<f64> = logits
        .par_chunks(ROWS * vocab.max(1))
        .zip(targets.par_chunks(ROWS))
        .map(|(logits, targets)| loss_only(logits, targets, vocab))
        .collect();
    (parts.iter().sum::<f64>() / rows as f64) as f32
}

/// As [`cross_entropy`], and the logits become its gradient, `(softmax(logits) - onehot(target)) / rows`: with a large
/// vocabulary there is no room for both.
///
/// # Shapes
///
/// - `logits`: `[rows, vocab]`
/// - `targets`: `[rows]`, each below `vocab`
///
/// # Panics
///
/// If the shapes disagree or a target is outside the vocabulary.
pub fn cross_entropy_gradient(logits: &mut [f32], targets: &[u32], vocab: usize) -> f32 {
    let rows = checked(logits.len(), targets, vocab);
    let scale = 1.0 / rows as f32;
    let parts: Vec<f64> = logits
        .par_chunks_mut(ROWS * vocab.max(1))
        .zip(targets.par_chunks(ROWS))
        .map(|(logits, targets)| to_gradient(logits, targets, vocab, scale))
        .collect();
    (parts.iter().sum::<f64>() / rows as f64) as f32
}

/// The number of rows.
fn checked(logits: usize, targets: &[u32], vocab: usize) -> usize {
    let rows = targets.len();
    assert_eq!(logits, rows * vocab, "logits of {rows} x {vocab}");
    assert!(targets.iter().all(|&target| (target as usize) < vocab), "target outside {vocab}");
    rows
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
    fn to_gradient<'a>(
        logits: &'a mut [f32],
        targets: &'a [u32],
        vocab: usize,
        scale: f32,
    ) -> f64 {
        let mut loss = 0.0;
        for (row, &target) in logits.chunks_exact_mut(vocab).zip(targets) {
            let max = max(row);
            let of_target = row[target as usize] - max;
            for x in row.iter_mut() {
                *x = exp(*x - max);
            }
            let total = sum([row], |[x]| x);
            loss += f64::from(total).ln() - f64::from(of_target);
            let factor = scale / total;
            for x in row.iter_mut() {
                *x *= factor;
            }
            row[target as usize] -= scale;
        }
        loss
    }
}
