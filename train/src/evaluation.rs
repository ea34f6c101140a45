//! Loss on a fixed set of windows.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use tern_datasets::batches::ValidationSet;
use tern_datasets::config::DataConfig;
use tern_model::Decoder;

use crate::ranks::Ranks;

/// A validation in both units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validation {
    /// Mean cross-entropy, nats per token.
    pub loss: f64,
    /// The same information over the bytes of the text that the tokens stand for.
    pub bits_per_byte: f64,
}

/// Ids and next ids of `rows` windows of `seq_len + 1` ids each.
///
/// # Shapes
///
/// - returns ids and targets, `[rows, seq_len]` each
pub fn inputs_and_targets(
    windows: &[u32],
    seq_len: usize,
    device: &Device,
) -> (Tensor<2, Int>, Tensor<2, Int>) {
    let rows = windows.len() / (seq_len + 1);
    let half = |offset: usize| {
        let ids: Vec<i32> = windows
            .chunks_exact(seq_len + 1)
            .flat_map(|window| &window[offset..offset + seq_len])
            .map(|&id| id as i32)
            .collect();
        Tensor::from_data(TensorData::new(ids, [rows, seq_len]), device)
    };
    (half(0), half(1))
}

/// Mean cross-entropy over batches of windows of `seq_len + 1` ids, nats per token, summed in f64 in their order; the ranks
/// share the batches.
pub fn mean_loss(
    model: &Decoder,
    batches: impl Iterator<Item = Vec<u32>>,
    seq_len: usize,
    device: &Device,
    ranks: &dyn Ranks,
) -> f64 {
    let model = model.valid();
    let device = device.clone().inner();
    let (mut rows, mut losses) = (Vec::new(), Vec::new());
    for (i, batch) in batches.enumerate() {
        if i % ranks.size() == ranks.rank() {
            let (ids, targets) = inputs_and_targets(&batch, seq_len, &device);
            losses.push(model.loss(ids, targets).into_scalar::<f32>());
        }
        rows.push((batch.len() / (seq_len + 1)) as f64);
    }
    let losses = ranks.in_order(&losses, rows.len());
    let weighted = losses.into_iter().zip(&rows).map(|(loss, rows)| f64::from(loss) * rows);
    weighted.fold(0.0, |sum, loss| sum + loss) / rows.iter().sum::<f64>()
}

/// The loss on a whole validation set, whose predicted tokens stand for `text_bytes` bytes.
pub fn validate(
    model: &Decoder,
    set: &ValidationSet,
    text_bytes: usize,
    config: &DataConfig,
    device: &Device,
    ranks: &dyn Ranks,
) -> Validation {
    let batches = (0..set.windows())
        .step_by(config.micro_batch)
        .map(|first| set.batch(first, config.micro_batch));
    let loss = mean_loss(model, batches, config.seq_len, device, ranks);
    let bits = loss * set.targets() as f64 / std::f64::consts::LN_2;
    Validation { loss, bits_per_byte: bits / text_bytes.max(1) as f64 }
}
