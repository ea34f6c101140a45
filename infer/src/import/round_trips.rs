//! What goes out as a directory of `transformers` comes back as the same model.
#![allow(clippy::unwrap_used, reason = "tests")]

use tern_format::config::{ActivationQuantizer, Architecture, HiddenAct, ModelConfig};
use tern_format::huggingface::{Storage, export};
use tern_format::packed::{FloatTensor, FloatType, PackedModel, Tensor};

use super::{Latent, Options, huggingface, open};
use crate::decoder::Model;
use crate::reference::{config, packed};
use crate::verify::{Verdict, verify_model};

/// Widths of which transformers packs the rows in fours.
fn even(architecture: Architecture) -> ModelConfig {
    let kv = if architecture == Architecture::Gpt2 { 4 } else { 2 };
    ModelConfig {
        hidden_size: 24,
        intermediate_size: 52,
        num_key_value_heads: kv,
        ..config(architecture)
    }
}

fn returned(model: &PackedModel, storage: Option<Storage>) -> PackedModel {
    let directory = tempfile::tempdir().unwrap();
    export(model, storage).unwrap().write(directory.path()).unwrap();
    huggingface(directory.path(), &Options::default()).unwrap().model
}

fn logits(model: &PackedModel) -> Vec<f32> {
    let model = Model::load(model.clone()).unwrap();
    let ids: Vec<u32> = (0..90).map(|i| i * 37 % 258).collect();
    model.logits_all(&ids, &mut model.cache()).unwrap()
}

/// The architecture, without what a directory has no place for: the formula that made the trits.
fn parts(config: &ModelConfig) -> ModelConfig {
    ModelConfig {
        quantizer: ModelConfig::preset(Architecture::Bitlm).quantizer,
        architecture: Architecture::Bitlm,
        initializer_range: 0.02,
        layer_norm_eps: 1e-5,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        ..config.clone()
    }
}

#[test]
fn packed_trits_and_scales_come_back_to_the_bit() {
    let int8 = ActivationQuantizer::Int8;
    for config in [
        even(Architecture::Bitnet),
        ModelConfig { hidden_act: HiddenAct::Silu, ..even(Architecture::Bitnet) },
        ModelConfig { activation_quantizer: int8, ..even(Architecture::Bitlm) },
        ModelConfig {
            activation_quantizer: int8,
            tie_word_embeddings: false,
            hidden_act: HiddenAct::Relu2,
            ..even(Architecture::Bitlm)
        },
    ] {
        let mut model = packed(&config, 3);
        model.metadata.chat_template = Some("{{ messages }}".into());
        let again = returned(&model, None);
        assert_eq!(again.tensors, model.tensors);
        assert_eq!(parts(again.config()), parts(&config));
        assert_eq!(again.config().rope_theta, config.rope_theta);
        assert_eq!(again.config().rms_norm_eps, config.rms_norm_eps);
        assert_eq!(again.metadata.tokenizer, model.metadata.tokenizer);
        assert_eq!(again.metadata.chat_template, model.metadata.chat_template);
        let ids = (again.metadata.bos, again.metadata.eos);
        assert_eq!(ids, (model.metadata.bos, model.metadata.eos));
        assert!(logits(&again) == logits(&model));
    }
}

#[test]
fn floats_are_trit_times_scale_to_the_bit() {
    for config in [
        even(Architecture::Bitlm),
        even(Architecture::Gpt2),
        ModelConfig { attention_bias: false, mlp_bias: false, ..even(Architecture::Gpt2) },
        even(Architecture::Llama),
    ] {
        let model = packed(&config, 5);
        let again = returned(&model, None);
        for (name, tensor) in &model.tensors {
            let Tensor::Float(found) = &again.tensors[name] else { panic!("{name} is packed") };
            let expected: Vec<f32> = match tensor {
                Tensor::Float(float) => float.values(),
                Tensor::Ternary(ternary) => {
                    let scale = ternary.scale;
                    ternary.trits().unwrap().iter().map(|&t| f32::from(t) * scale).collect()
                }
            };
            assert_eq!((&found.shape, found.dtype), (&tensor.shape(), FloatType::F32), "{name}");
            assert_eq!(found.values(), expected, "{name}");
        }
        let (found, expected) = (logits(&again), logits(&model));
        let largest = expected.iter().fold(0.0f32, |most, logit| most.max(logit.abs()));
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5 * largest, "{:?}: {worst:e}", config.architecture);
    }
}

#[test]
fn floats_that_are_ternary_to_the_bit_become_the_same_trits() {
    for config in [even(Architecture::Bitlm), even(Architecture::Gpt2)] {
        let model = packed(&config, 5);
        let directory = tempfile::tempdir().unwrap();
        export(&model, None).unwrap().write(directory.path()).unwrap();
        let again = open(directory.path(), &Options::default()).unwrap();
        for (name, tensor) in model.tensors.iter().filter(|(_, tensor)| tensor.is_ternary()) {
            assert_eq!(&again.model.tensors[name], tensor, "{name}");
        }
        let matrices = model.tensors.values().filter(|tensor| tensor.is_ternary()).count();
        assert!(again.notes[0].starts_with(&format!("{matrices} matrices")), "{:?}", again.notes);
        let kept = Options { latent: Latent::Keep, ..Options::default() };
        let kept = open(directory.path(), &kept).unwrap().model;
        assert_eq!(verify_model(kept, 1).unwrap().verdict, Verdict::Projected);
    }
}

#[test]
fn floats_of_many_magnitudes_stay_floats() {
    let directory = tempfile::tempdir().unwrap();
    let model = packed(&even(Architecture::Llama), 5);
    export(&model, None).unwrap().write(directory.path()).unwrap();
    let again = open(directory.path(), &Options::default()).unwrap();
    assert_eq!((again.model.ternary_parameters(), again.notes.len()), (0, 0));
    assert_eq!(again.model.config().quantizer, model.config().quantizer);
}

#[test]
fn narrower_floats_are_the_nearest() {
    let model = packed(&even(Architecture::Bitlm), 5);
    for dtype in [FloatType::BF16, FloatType::F16] {
        let again = returned(&model, Some(Storage::Float(dtype)));
        let exact = returned(&model, None);
        for (name, tensor) in &again.tensors {
            let (Tensor::Float(found), Tensor::Float(exact)) = (tensor, &exact.tensors[name])
            else {
                panic!("{name} is packed")
            };
            assert_eq!(found.dtype, dtype, "{name}");
            let rounded = FloatTensor::new(exact.shape.clone(), dtype, &exact.values());
            assert_eq!(found, &rounded, "{name}");
        }
    }
}

#[test]
fn what_transformers_would_read_as_another_model_is_refused() {
    let int8 = ActivationQuantizer::Int8;
    let float = Some(Storage::Float(FloatType::F32));
    let eight_bits = ModelConfig { activation_quantizer: int8, ..even(Architecture::Bitlm) };
    for (config, storage, words) in [
        (even(Architecture::Bitgpt), None, "model.ternary_head is true"),
        (even(Architecture::Tern), None, "model.qk_norm is true"),
        (even(Architecture::Bitnet), float, "--type packed keeps them"),
        (even(Architecture::Bitlm), Some(Storage::Packed), "--type f32 can hold it"),
        (even(Architecture::Llama), Some(Storage::Packed), "this model is float"),
        (
            ModelConfig { attention_bias: true, ..eight_bits.clone() },
            None,
            "scales the biases of packed layers",
        ),
        (
            ModelConfig { hidden_size: 26, ..eight_bits },
            None,
            "a multiple of 4 outputs, this has 26",
        ),
        (
            ModelConfig { activation_quantizer: int8, ..even(Architecture::Gpt2) },
            None,
            "transformers packs no layers of gpt2",
        ),
        (
            ModelConfig { num_key_value_heads: 2, ..even(Architecture::Gpt2) },
            None,
            "num_key_value_heads must be all heads",
        ),
    ] {
        let model = packed(&config, 7);
        let message = export(&model, storage).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(words), "lacks {words:?}: {message}");
    }
}
