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
use tern_kernels::ternary::Kernel;
use tern_kernels::ternary_matrix::{T2, TernaryMatrix};
use tern_kernels::tokens::Int8Tokens;
use tern_model::Decoder;
use tern_model::Precision;
use tern_model::fused;
use tern_model::parameters::{HostTensor, export, import, values};
use tern_tests::training::PRESETS;
use tern_train::export::{latent, pack};

const SEQ: usize = 48;

/// A preset in a small shape.
fn small(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        vocab_size: 120,
        hidden_size: 64,
        intermediate_size: 172, // no multiple of any SIMD width
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 64,
        initializer_range: 0.15,
        ..ModelConfig::preset(architecture)
    }
}

/// BitLM with every quantizer of weights, every other preset with its own, and MiniLM's own quantizer in its own preset.
fn models() -> Vec<ModelConfig> {
    let bitlm = [Quantizer::Seed1, Quantizer::None]
        .map(|quantizer| ModelConfig { quantizer, ..small(Architecture::Bitlm) });
    let minilm = ModelConfig { quantizer: Quantizer::MiniLm, ..small(Architecture::Bitgpt) };
    PRESETS.map(small).into_iter().chain(bitlm).chain([minilm]).collect()
}

fn describe(config: &ModelConfig, kernel: &Kernel) -> String {
    format!("{:?}, {:?}, {}", config.architecture, config.quantizer, kernel.name())
}

/// A model in Burn whose float matrices are already what export rounds them to, and its packed twin. Gains and biases, which
/// start as ones and zeros, are noise besides.
fn twins(config: &ModelConfig) -> (Decoder, PackedModel) {
    config.validate().unwrap();
    let device = Device::flex();
    let model = Decoder::init(config, 11, &device);
    let mut weights: BTreeMap<String, HostTensor> = export(&model);
    for (name, (shape, values)) in &mut weights {
        if shape.len() == 1 {
            for (i, value) in values.iter_mut().enumerate() {
                *value += ((i * i * 31 + i * 17 + name.len()) % 41) as f32 / 100.0 - 0.2;
            }
        } else if !config.is_ternary_matrix(name) {
            *values = FloatTensor::new(shape.clone(), FloatType::F16, values).values();
        }
    }
    let model = import(model, weights).unwrap();
    let text = ["a few words to make a tokenizer of".to_owned()];
    let tokenizer = train_tokenizer(TokenizerKind::Bpe, 30, false, &text).unwrap();
    let tensors = pack(config, latent(&model, config)).unwrap();
    let packed = PackedModel { metadata: Metadata::new(config.clone(), tokenizer), tensors };
    packed.validate().unwrap();
    (model, packed)
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
fn logits_with_float_activations_agree_to_a_hundred_thousandth() {
    for config in models() {
        let config = ModelConfig { activation_quantizer: ActivationQuantizer::None, ..config };
        let (model, packed) = twins(&config);
        let expected = burn_logits(&model, &ids());
        for kernel in Kernel::available() {
            let name = describe(&config, &kernel);
            let engine = Model::with_engine(packed.clone(), kernel.into()).unwrap();
            let found = engine.logits_all(&ids(), &mut engine.cache()).unwrap();
            for (row, difference) in
                row_differences(&found, &expected, config.vocab_size).into_iter().enumerate()
            {
                assert!(difference <= 1e-5, "{name}, row {row}: {difference:e}");
            }
        }
    }
}

#[test]
fn int8_logits_agree_but_for_flipped_codes() {
    for config in models().into_iter().filter(ModelConfig::is_ternary) {
        let config = ModelConfig { activation_quantizer: ActivationQuantizer::Int8, ..config };
        let (model, packed) = twins(&config);
        let expected = burn_logits(&model, &ids());
        for kernel in Kernel::available() {
            let name = describe(&config, &kernel);
            let engine = Model::with_engine(packed.clone(), kernel.into()).unwrap();
            let found = engine.logits_all(&ids(), &mut engine.cache()).unwrap();
            let rows = row_differences(&found, &expected, config.vocab_size);
            let flipped = rows.iter().filter(|&&difference| difference > 1e-5).count();
            eprintln!("{name}: {flipped} of {SEQ} rows have a flipped code before them");
            for (row, difference) in rows.into_iter().enumerate() {
                assert!(difference <= 3e-2, "{name}, row {row}: {difference:e}");
            }
            let loss = |logits: &[f32]| mean_cross_entropy(logits, &ids(), config.vocab_size);
            let difference = (loss(&found) - loss(&expected)).abs();
            assert!(difference < 1e-3, "{name}: loss differs by {difference:e}");
        }
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

/// Rows of a packed model's matrices, one matrix after the other, each trit times its scale.
fn dequantized(packed: &PackedModel, names: &[String]) -> Vec<f32> {
    let values = |name: &String| match &packed.tensors[name] {
        tern_format::packed::Tensor::Ternary(stored) => {
            let scale = stored.scale;
            stored.trits().unwrap().into_iter().map(|trit| f32::from(trit) * scale).collect()
        }
        tern_format::packed::Tensor::Float(_) => panic!("{name} is not ternary"),
    };
    names.iter().flat_map(|name: &String| -> Vec<f32> { values(name) }).collect()
}

/// The packed trits and scales are those that the forward pass of training uses: for every matrix alone, for those that are one
/// to the quantizer as one, and for a ternary head that has the embedding's latent weights.
#[test]
fn packed_trits_and_scales_are_those_of_training_to_the_bit() {
    for config in models().into_iter().filter(ModelConfig::is_ternary) {
        let (model, packed) = twins(&config);
        let weights = latent(&model, &config);
        for group in config.ternary_groups() {
            let names: Vec<_> = group.iter().map(|(name, _)| name.clone()).collect();
            let latents: Vec<f32> = names.iter().flat_map(|name| weights[name].1.clone()).collect();
            let d_input = group[0].1[1];
            let rows = latents.len() / d_input;
            let w =
                Tensor::<2>::from_data(TensorData::new(latents, [rows, d_input]), &Device::flex());
            let found = dequantized(&packed, &names);
            if config.quantizer != Quantizer::MiniLm {
                let fake = values(fused::fake_ternarize(w, config.quantizer.extra_eps()));
                assert_eq!(fake, found, "{names:?}");
                continue;
            }
            // Training multiplies by mean(|w|); the file has in it the 1e-8 that both divide by.
            let eye = Tensor::eye(d_input, &Device::flex());
            let fake = values(fused::minilm_linear(eye, w, false, Precision::F32).transpose());
            for (fake, found) in fake.iter().zip(&found) {
                assert!((fake - found).abs() <= 1e-6 * found.abs(), "{names:?}: {fake} {found}");
            }
        }
    }
}

/// A product of the same codes and trits is the same to the bit.
#[test]
fn integer_products_are_equal_to_the_bit() {
    let config = ModelConfig {
        activation_quantizer: ActivationQuantizer::Int8,
        ..small(Architecture::Bitlm)
    };
    let (model, packed) = twins(&config);
    let weights = export(&model);
    let x: Vec<f32> = (0..3 * 172).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
    for LinearShape { name: part, d_output, d_input, .. } in config.block_linears() {
        let name = format!("model.layers.1.{part}.weight");
        let (shape, latent) = &weights[&name];
        let tern_format::packed::Tensor::Ternary(stored) = &packed.tensors[&name] else {
            panic!("{name} is not ternary");
        };
        let x = &x[..3 * d_input];
        let tensor = |values: &[f32], shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
        };
        let w = tensor(latent, [shape[0], shape[1]]);
        let product =
            values(fused::quantized_linear(tensor(x, [3, d_input]), w, 0.0, Precision::F32));
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
