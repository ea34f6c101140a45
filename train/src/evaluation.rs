//! Loss on a fixed set of windows.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use tern_model::Decoder;

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

/// Mean cross-entropy over windows of equal length, nats per token, summed in f64 by batches of `micro_batch` windows.
pub fn mean_loss(model: &Decoder, windows: &[Vec<u32>], micro_batch: usize, device: &Device) -> f64 {
    let model = model.valid();
    let device = device.clone().inner();
    let mut sum = 0.0;
    for batch in windows.chunks(micro_batch.max(1)) {
        let seq_len = batch[0].len() - 1;
        let (ids, targets) = inputs_and_targets(&batch.concat(), seq_len, &device);
        let loss = model.loss(ids, targets).into_scalar::<f32>();
        sum += f64::from(loss) * batch.len() as f64;
    }
    sum / windows.len() as f64
}

/// [`mean_loss`] with its value in bits per byte, where the predicted tokens stand for `text_bytes` bytes.
pub fn validate(
    model: &Decoder,
    windows: &[Vec<u32>],
    text_bytes: u64,
    micro_batch: usize,
    device: &Device,
) -> Validation {
    let loss = mean_loss(model, windows, micro_batch, device);
    let tokens: usize = windows.iter().map(|window| window.len() - 1).sum();
    let bits = loss * tokens as f64 / std::f64::consts::LN_2;
    Validation { loss, bits_per_byte: bits / text_bytes.max(1) as f64 }
}
