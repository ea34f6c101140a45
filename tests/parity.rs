//! Training and inference compute the same model: the packed file in the engine against the latent weights in Burn.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use tern_datasets::config::TokenizerKind;
use tern_datasets::tokenizer_training::train_tokenizer;
use tern_format::config::{ActivationQuantizer, Architecture, LinearShape, ModelConfig, Quantizer};
use tern_format::packed::{FloatTensor, FloatType, Metadata, PackedModel};
use tern_infer::Model;
use tern_kernels::pool::Pool;
use tern_kernels::ternarize::ternarize;
use tern_kernels::ternary::Kernel;
use tern_kernels::ternary_matrix::{T2, TernaryMatrix};
use tern_kernels::tokens::Int8Tokens;
use tern_model::Decoder;
use tern_model::Precision;
use tern_model::fused;
use tern_model::parameters::{HostTensor, export, import, values};
use tern_train::export::pack;

const SEQ: usize = 48;

fn config(activation_quantizer: ActivationQuantizer, quantizer: Quantizer) -> ModelConfig {
    ModelConfig {
        vocab_size: 120,
        hidden_size: 64,
        intermediate_size: 172, // no multiple of any SIMD width
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 64,
        quantizer,
        activation_quantizer,
        initializer_range: 0.15,
        ..ModelConfig::preset(Architecture::Bitlm)
    }
}

/// A model in Burn whose float matrices are already what export rounds them to, and its packed twin.
fn twins(config: &ModelConfig) -> (Decoder, PackedModel) {
    let device = Device::flex();
    let model = Decoder::init(config, 11, &device);
    let mut weights: BTreeMap<String, HostTensor> = export(&model);
    for (name, (shape, values)) in &mut weights {
        if name.ends_with("embed_tokens.weight") || (!config.is_ternary() && name.contains("proj"))
        {
            *values = FloatTensor::new(shape.clone(), FloatType::F16, values).values();
        }
    }
    let model = import(model, weights).unwrap();
    let text = ["a few words to make a tokenizer of".to_owned()];
    let tokenizer = train_tokenizer(TokenizerKind::Bpe, 30, false, &text).unwrap();
    let tensors = pack(config, export(&model)).unwrap();
    (model, PackedModel { metadata: Metadata::new(config.clone(), tokenizer), tensors })
}

fn ids() -> Vec<u32> {
    (0..SEQ as u32).map(|i| (i * i * 7 + i * 13 + 5) % 120).collect()
}

fn burn_logits(model: &Decoder, ids: &[u32]) -> Vec<f32> {
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, SEQ]), &Device::flex());
    values(model.forward(ids))
}

/// The largest difference of each row, as a share of the largest logit.
fn row_differences(found: &[f32], expected: &[f32], columns: usize) -> Vec<f32> {
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    found
        .chunks_exact(columns)
        .zip(expected.chunks_exact(columns))
        .map(|(f, e)| f.iter().zip(e).fold(0.0f32, |m, (f, e)| m.max((f - e).abs())) / largest)
        .collect()
}

#[test]
fn weight_only_logits_agree_to_a_hundred_thousandth() {
    for quantizer in [Quantizer::B158, Quantizer::Seed1, Quantizer::None] {
        let config = config(ActivationQuantizer::None, quantizer);
        let (model, packed) = twins(&config);
        let expected = burn_logits(&model, &ids());
        for kernel in Kernel::available() {
            let name = kernel.name();
            let engine = Model::with_engine(packed.clone(), kernel.into()).unwrap();
            let found = engine.logits_all(&ids(), &mut engine.cache()).unwrap();
            for (row, difference) in
                row_differences(&found, &expected, config.vocab_size).into_iter().enumerate()
            {
                assert!(difference <= 1e-5, "{quantizer:?} {name} row {row}: {difference:e}");
            }
        }
    }
}

#[test]
fn int8_logits_agree_but_for_flipped_codes() {
    let config = config(ActivationQuantizer::Int8, Quantizer::B158);
    let (model, packed) = twins(&config);
    let expected = burn_logits(&model, &ids());
    for kernel in Kernel::available() {
        let name = kernel.name();
        let engine = Model::with_engine(packed.clone(), kernel.into()).unwrap();
        let found = engine.logits_all(&ids(), &mut engine.cache()).unwrap();
        let rows = row_differences(&found, &expected, config.vocab_size);
        let flipped = rows.iter().filter(|&&difference| difference > 1e-5).count();
        eprintln!("{name}: {flipped} of {SEQ} rows have a flipped code before them");
        for (row, difference) in rows.into_iter().enumerate() {
            assert!(difference <= 3e-2, "{name} row {row}: {difference:e}");
        }
        let loss = |logits: &[f32]| mean_cross_entropy(logits, &ids(), config.vocab_size);
        let difference = (loss(&found) - loss(&expected)).abs();
        assert!(difference < 1e-3, "{name}: loss differs by {difference:e}");
    }
}

fn mean_cross_entropy(logits: &[f32], ids: &[u32], columns: usize) -> f64 {
    let rows = logits.chunks_exact(columns).zip(&ids[1..]);
    let total: f64 = rows
        .map(|(row, &next)| {
            let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
            sum.ln() - f64::from(row[next as usize])
        })
        .sum();
    total / (ids.len() - 1) as f64
}

/// The packed trits and scales are those that the forward pass of training uses, and a product of the same codes and
/// trits is the same to the bit.
#[test]
fn trits_scales_and_integer_products_are_equal_to_the_bit() {
    let config = config(ActivationQuantizer::Int8, Quantizer::B158);
    let (model, packed) = twins(&config);
    let device = Device::flex();
    let weights = export(&model);
    let x: Vec<f32> = (0..3 * 172).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
    for LinearShape { name: part, d_output, d_input, .. } in config.block_linears() {
        let name = format!("model.layers.1.{part}.weight");
        let (shape, latent) = &weights[&name];
        let tern_format::packed::Tensor::Ternary(stored) = &packed.tensors[&name] else {
            panic!("{name} is not ternary");
        };
        let (trits, scale) = ternarize(latent, 0.0);
        assert_eq!(stored.trits().unwrap(), trits, "{name}");
        assert_eq!(stored.scale, scale, "{name}");
        let w =
            Tensor::<2>::from_data(TensorData::new(latent.clone(), [shape[0], shape[1]]), &device);
        let fake = values(fused::fake_ternarize(w.clone(), 0.0));
        let dequantized: Vec<f32> = trits.iter().map(|&t| f32::from(t) * scale).collect();
        assert_eq!(fake, dequantized, "{name}");

        let x = &x[..3 * d_input];
        let rows = Tensor::<2>::from_data(TensorData::new(x.to_vec(), [3, d_input]), &device);
        let product = values(fused::quantized_linear(rows, w, 0.0, Precision::F32));
        for kernel in Kernel::available() {
            // Without the scale of the weights: the order of the two differs, and so the last bit.
            let part = T2 { bytes: &stored.bytes, d_output, scale: 1.0 };
            let w = TernaryMatrix::stack(&Pool::new(1), &[part], d_input);
            let mut exact = vec![0.0; 3 * d_output];
            let x = Int8Tokens::quantize(&Pool::common(), x, d_input);
            kernel.ternary_int8(&Pool::common(), &w, &x, &mut exact);
            exact.iter_mut().for_each(|y| *y *= stored.scale);
            assert_eq!(product, exact, "{name} {}", kernel.name());
        }
    }
}
