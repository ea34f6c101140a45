//! Cross-entropy of a model on fixed tokens.

use crate::decoder::Model;
use crate::error::{Error, Result};

/// The most tokens whose logits exist at a time.
const CHUNK: usize = 128;

/// The most logits that exist at a time, 64 MB, unless those of one token are more: a small file may have a vocabulary
/// of sixteen million.
const MOST_LOGITS: usize = 1 << 24;

/// Mean of `-ln softmax(logits)[next]` over every id but the first of every window, in nats per token.
///
/// Each window is read from position 0; its first id is context only. Logits are f32, the logarithm and the sum
/// f64.
///
/// # Errors
///
/// No window, one of fewer than two ids, or what [`Model::logits_all`] refuses.
pub fn mean_loss(model: &Model, windows: &[Vec<u32>]) -> Result<f64> {
    let mut total = 0.0;
    let mut predictions = 0u64;
    for (window, ids) in windows.iter().enumerate() {
        let [_, next @ ..] = ids.as_slice() else {
            return Err(Error::Window { window, ids: 0 });
        };
        if next.is_empty() {
            return Err(Error::Window { window, ids: 1 });
        }
        let vocab_size = model.config().vocab_size;
        model.check_ids(ids)?;
        let mut cache = model.cache();
        let chunk = (MOST_LOGITS / vocab_size).clamp(1, CHUNK);
        for (ids, next) in ids[..next.len()].chunks(chunk).zip(next.chunks(chunk)) {
            let logits = model.logits_all(ids, &mut cache)?;
            for (logits, &next) in logits.chunks_exact(vocab_size).zip(next) {
                total += cross_entropy(logits, next);
                predictions += 1;
            }
        }
    }
    if predictions == 0 { Err(Error::NoWindows) } else { Ok(total / predictions as f64) }
}

/// `ln sum e^(logit_j) - logit_next`, shifted by the largest logit.
fn cross_entropy(logits: &[f32], next: u32) -> f64 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    sum.ln() + f64::from(most) - f64::from(logits[next as usize])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tern_format::config::Architecture;

    use super::*;
    use crate::reference::{self, config, packed};

    #[test]
    fn is_the_mean_over_all_predictions() {
        let packed = packed(&config(Architecture::Bitlm), 5);
        let windows: Vec<Vec<u32>> =
            [2, 3, 140].map(|n| (0..n).map(|i| i * 37 % 258).collect()).to_vec();
        let mut expected = Vec::new();
        for window in &windows {
            let logits = reference::logits(&packed, &window[..window.len() - 1]);
            for (logits, &next) in logits.iter().zip(&window[1..]) {
                let sum: f64 = logits.iter().map(|x| x.exp()).sum();
                expected.push(sum.ln() - logits[next as usize]);
            }
        }
        let expected = expected.iter().sum::<f64>() / expected.len() as f64;
        let loss = mean_loss(&Model::load(packed).unwrap(), &windows).unwrap();
        assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");
    }

    #[test]
    fn windows_that_predict_nothing_are_refused() {
        let model = Model::load(packed(&config(Architecture::Bitlm), 5)).unwrap();
        let fails = |windows: &[Vec<u32>]| mean_loss(&model, windows).unwrap_err();
        assert!(matches!(fails(&[]), Error::NoWindows));
        assert!(matches!(fails(&[vec![1, 2], vec![1]]), Error::Window { window: 1, ids: 1 }));
        assert!(matches!(fails(&[vec![]]), Error::Window { window: 0, ids: 0 }));
        assert!(matches!(fails(&[vec![1, 999]]), Error::TokenId { position: 1, .. }));
        assert!(matches!(fails(&[vec![1; 302]]), Error::Context { most: 300, .. }));
        assert!(mean_loss(&model, &[vec![1; 301]]).is_ok());
    }
}
