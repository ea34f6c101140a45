//! The head: the residual stream to logits over the vocabulary.

use tern_format::config::{ActivationQuantizer, ModelConfig};
use tern_format::packed::Tensor;
use tern_kernels::int8_matrix::Int8Matrix;
use tern_kernels::tokens::Int8Tokens;

use crate::linear::{Activations, Engine, Linear};
use crate::rows::Rows;

/// Weights from which a look at eight-bit codes first is worth it: less than this stays in the cache.
const LARGE: usize = 1 << 20;

/// Rows, one for each token of the vocabulary.
#[derive(Debug)]
pub(crate) enum Head {
    /// A float matrix, and for a large one its eight-bit codes.
    ///
    /// To draw a token takes the largest logits alone. The codes find the few rows that may have them, a fourth of the
    /// bytes to read; those are then computed as all are, so the logits are the same to the bit.
    Float {
        /// `[vocab_size, hidden]`; a tied head is the embedding.
        rows: Rows,
        codes: Option<Int8Matrix>,
    },
    /// A layer like those of the blocks.
    Ternary { linear: Linear, hidden: usize, quantizer: ActivationQuantizer },
}

impl Head {
    /// # Shapes
    ///
    /// - `rows`: `[vocab_size, hidden]`
    pub(crate) fn float(rows: Rows, engine: &Engine) -> Self {
        let (count, hidden) = (rows.count(), rows.width());
        let codes = (count * hidden >= LARGE).then(|| {
            Int8Matrix::quantize(&engine.pool, count, hidden, |r, row| rows.read(r..r + 1, row))
        });
        Self::Float { rows, codes }
    }

    /// # Shapes
    ///
    /// - `rows`: `[vocab_size, hidden]`
    pub(crate) fn ternary(rows: Tensor, config: &ModelConfig, engine: &Engine) -> Self {
        let hidden = config.hidden_size;
        let quantizer = config.activation_quantizer;
        let linear = Linear::new(engine, quantizer, vec![(rows, config.vocab_size)], hidden, None);
        Self::Ternary { linear, hidden, quantizer }
    }

    /// Bytes that one token's largest logits read.
    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Self::Float { codes: Some(codes), .. } => codes.size_bytes(),
            Self::Float { rows, .. } => rows.size_bytes(),
            Self::Ternary { linear, .. } => linear.size_bytes(),
        }
    }

    /// All logits.
    ///
    /// # Shapes
    ///
    /// - `x`: `[seq, hidden]`; returns `[seq, vocab_size]`
    pub(crate) fn logits(&self, engine: &Engine, x: &[f32]) -> Vec<f32> {
        match self {
            Self::Float { rows, .. } => rows.dense(engine, x),
            Self::Ternary { linear, hidden, quantizer } => {
                linear.forward(engine, &Activations::new(engine, x, *hidden, *quantizer))
            }
        }
    }

    /// The `count` largest logits of one token, and perhaps others, by id; all of them where `count` is none.
    ///
    /// # Shapes
    ///
    /// - `x`: `[hidden]`, or nothing, which has no logits
    pub(crate) fn candidates(
        &self,
        engine: &Engine,
        x: &[f32],
        count: Option<usize>,
    ) -> Vec<(u32, f32)> {
        let (Self::Float { rows, codes: Some(codes) }, Some(count), false) =
            (self, count, x.is_empty())
        else {
            return (0..).zip(self.logits(engine, x)).collect();
        };
        let tokens = Int8Tokens::quantize(&engine.pool, x, rows.width());
        let mut approximate = vec![0.0; codes.d_output()];
        engine.kernel.int8_rows(&engine.pool, codes, &tokens, &mut approximate);
        let found = codes.candidates(x, &tokens, &approximate, count);
        let mut logits = vec![0.0; found.len()];
        engine.pool.write_chunks(&mut logits, ROWS, |chunk, logits| {
            rows.some(engine, &found[chunk * ROWS..], x, logits);
        });
        found.into_iter().map(|r| r as u32).zip(logits).collect()
    }
}

/// Rows that one task computes.
const ROWS: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use tern_format::packed::{FloatTensor, FloatType};

    #[test]
    fn the_largest_logits_are_those_of_all_to_the_bit() {
        let (vocab_size, hidden) = (9_000, 128);
        let noise =
            |n: usize| ((n.wrapping_mul(2_654_435_761) >> 7) % 2_001) as f32 / 1_000.0 - 1.0;
        let rows: Vec<f32> = (0..vocab_size * hidden).map(noise).collect();
        let engine = Engine::detect().unwrap();
        for (token, float_type) in
            [FloatType::F32, FloatType::F16, FloatType::BF16].repeat(2).into_iter().enumerate()
        {
            let tensor = FloatTensor::new(vec![vocab_size, hidden], float_type, &rows);
            let head = Head::float(Rows::new(tensor, hidden), &engine);
            assert!(matches!(&head, Head::Float { codes: Some(_), .. }));
            let x: Vec<f32> = (0..hidden).map(|i| noise(1_000_003 * (token + 1) + i * i)).collect();
            let all = head.logits(&engine, &x);
            let mut order: Vec<u32> = (0..vocab_size as u32).collect();
            order.sort_by(|&a, &b| all[b as usize].total_cmp(&all[a as usize]));
            for count in [1, 40] {
                let found = head.candidates(&engine, &x, Some(count));
                assert!(found.is_sorted_by_key(|&(id, _)| id));
                assert!(found.len() < vocab_size / 4, "{} candidates for {count}", found.len());
                for (id, logit) in &found {
                    assert_eq!(logit.to_bits(), all[*id as usize].to_bits());
                }
                for id in &order[..count] {
                    assert!(found.iter().any(|(found, _)| found == id), "{id} of {count}");
                }
            }
            assert_eq!(head.candidates(&engine, &x, None).len(), vocab_size);
        }
    }
}
