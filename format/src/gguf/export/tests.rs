#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use super::super::{Gguf, View};
use super::*;
use crate::config::{ActivationQuantizer, Architecture, Quantizer};
use crate::packed::{FloatTensor, Metadata, Provenance, TernaryTensor};
use crate::tokenizer::{Tokenizer, TokenizerSource};

fn config(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        hidden_size: 256,
        intermediate_size: 512,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: if architecture == Architecture::Gpt2 { 4 } else { 2 },
        head_dim: 64,
        max_position_embeddings: 8,
        ..ModelConfig::preset(architecture)
    }
}

/// A scale that neither f16 nor bf16 holds, another for each matrix.
fn scale(name: &str) -> f32 {
    0.01 + name.bytes().map(u32::from).sum::<u32>() as f32 * 1.234e-6
}

fn trits(name: &str, count: usize) -> Vec<i8> {
    let seed =
        name.bytes().fold(7u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    let trit =
        |i: usize| ((seed.wrapping_add(i as u32).wrapping_mul(2_654_435_761) >> 16) % 3) as i8;
    (0..count).map(|i| trit(i) - 1).collect()
}

fn values(name: &str, count: usize) -> Vec<f32> {
    trits(name, count).iter().enumerate().map(|(i, &t)| f32::from(t) + i as f32 / 1024.0).collect()
}

fn model(mut config: ModelConfig) -> PackedModel {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/tok_gpt2_bpe/tokenizer.json");
    let source = TokenizerSource::Json(std::fs::read_to_string(path).unwrap());
    config.vocab_size = Tokenizer::from_source(&source).unwrap().vocab_size() + 1;
    let tensors = config.tensors().into_iter().map(|(name, shape)| {
        let count = shape.iter().product();
        let tensor = if config.is_ternary_matrix(&name) {
            Tensor::Ternary(TernaryTensor::from_trits(&trits(&name, count), shape[1], scale(&name)))
        } else {
            let dtype = if name == EMBEDDING { FloatType::F16 } else { FloatType::F32 };
            Tensor::Float(FloatTensor::new(shape, dtype, &values(&name, count)))
        };
        (name, tensor)
    });
    let tensors = tensors.collect();
    let mut metadata = Metadata::new(config, source);
    metadata.eos = Some(0);
    PackedModel { metadata, tensors }
}

fn bytes(model: &PackedModel, linear: Option<BlockType>) -> Vec<u8> {
    let mut bytes = Vec::new();
    export(model, linear).unwrap().layout.write_to(&mut bytes).unwrap();
    bytes
}

fn refused(config: ModelConfig, linear: Option<BlockType>) -> String {
    export(&model(config), linear).map(|_| ()).unwrap_err().to_string()
}

fn trits_of(view: &View<'_>) -> Vec<i8> {
    view.trits().unwrap().unwrap().trits
}

#[test]
fn bitlm_is_llama_with_neighbouring_pairs_and_exact_scales() {
    let config = config(Architecture::Bitlm);
    let mut model = model(config.clone());
    model.metadata.provenance = Some(Provenance {
        run: "tiny".into(),
        step: 7,
        tokens: 8,
        data_identity: "00".into(),
        data_licence: None,
        teacher_licence: None,
        commit: "abc".into(),
        val_loss: Some(1.5),
    });
    for linear in [BlockType::TQ2_0, BlockType::TQ1_0] {
        let bytes = bytes(&model, Some(linear));
        let file = Gguf::parse(&bytes).unwrap();
        for (key, value) in [
            ("context_length", 8u32),
            ("embedding_length", 256),
            ("feed_forward_length", 512),
            ("block_count", 2),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("rope.dimension_count", 64),
        ] {
            assert_eq!(file.find(&format!("llama.{key}")).unwrap(), Some(value), "{key}");
        }
        assert_eq!(file.find("general.architecture").unwrap(), Some("llama"));
        assert_eq!(file.find("general.name").unwrap(), Some("tiny"));
        assert_eq!(file.find("llama.rope.freq_base").unwrap(), Some(10_000.0f64));
        let stored: &str = file.find("tern.config").unwrap().unwrap();
        assert_eq!(serde_json::from_str::<ModelConfig>(stored).unwrap(), *model.config());
        // 2 blocks of 7 matrices with scales and 2 norms; embedding and norm.
        assert_eq!(file.tensors.len(), 2 * (7 * 2 + 2) + 2);
        for (ours, theirs, height) in [
            ("self_attn.q_proj", "attn_q", 256),
            ("self_attn.k_proj", "attn_k", 128),
            ("self_attn.v_proj", "attn_v", 128),
            ("self_attn.o_proj", "attn_output", 256),
            ("mlp.gate_proj", "ffn_gate", 512),
            ("mlp.up_proj", "ffn_up", 512),
            ("mlp.down_proj", "ffn_down", 256),
        ] {
            let name = format!("model.layers.1.{ours}.weight");
            let view = &file.tensors[format!("blk.1.{theirs}.weight").as_str()];
            let width = view.shape[1];
            assert_eq!((view.block_type, view.shape[0]), (linear, height));
            assert_eq!(view.trits().unwrap().unwrap().common_scale(), Some(1.0));
            let exact = &file.tensors[format!("blk.1.{theirs}.scale").as_str()];
            assert_eq!(exact.floats().unwrap(), [scale(&name)], "{name}");
            let (found, expected) = (trits_of(view), trits(&name, height * width));
            let row = |trits: &[i8], row: usize| trits[row * width..][..width].to_vec();
            let permuted = ["attn_q", "attn_k"].contains(&theirs);
            for head in 0..height / 64 {
                for i in 0..32 {
                    let (even, odd) = if permuted { (2 * i, 2 * i + 1) } else { (i, i + 32) };
                    assert_eq!(row(&found, 64 * head + even), row(&expected, 64 * head + i));
                    assert_eq!(row(&found, 64 * head + odd), row(&expected, 64 * head + i + 32));
                }
            }
        }
        let embedding = &file.tensors["token_embd.weight"];
        assert_eq!(embedding.block_type, BlockType::F16);
        let Tensor::Float(expected) = &model.tensors[EMBEDDING] else { panic!() };
        assert_eq!(embedding.floats().unwrap(), expected.values());
        assert_eq!(file.tensors["output_norm.weight"].block_type, BlockType::F32);
    }
}

#[test]
fn the_other_types_hold_trit_times_scale() {
    let model = model(config(Architecture::Bitlm));
    let name = "model.layers.0.mlp.up_proj.weight";
    let scale = scale(name);
    for (linear, rounded) in [
        (BlockType::F32, scale),
        (BlockType::F16, half::f16::from_f32(scale).to_f32()),
        (BlockType::Q8_0, half::f16::from_f32(scale).to_f32()),
        (BlockType::I2_S, scale),
    ] {
        let bytes = bytes(&model, Some(linear));
        let file = Gguf::parse(&bytes).unwrap();
        let expected: Vec<f32> =
            trits(name, 512 * 256).iter().map(|&trit| f32::from(trit) * rounded).collect();
        assert!(file.tensors["blk.0.ffn_up.weight"].floats().unwrap() == expected, "{linear:?}");
        assert!(!file.tensors.contains_key("blk.0.ffn_up.scale"), "{linear:?}");
    }
}

#[test]
fn gpt2_has_one_matrix_for_queries_keys_and_values_and_all_biases() {
    let mut config = config(Architecture::Gpt2);
    for biases in [true, false] {
        (config.attention_bias, config.mlp_bias) = (biases, biases);
        let model = model(config.clone());
        let bytes = bytes(&model, None);
        let file = Gguf::parse(&bytes).unwrap();
        let names: BTreeSet<&str> = file.tensors.keys().copied().collect();
        let block = ["attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"];
        let blocks = (0..2).flat_map(|layer| block.map(|part| format!("blk.{layer}.{part}")));
        let all = blocks.chain(["output_norm".into()]);
        let mut expected: BTreeSet<String> =
            all.flat_map(|part| [format!("{part}.weight"), format!("{part}.bias")]).collect();
        expected.extend(["token_embd.weight".into(), "position_embd.weight".into()]);
        assert_eq!(names, expected.iter().map(String::as_str).collect());
        let qkv = &file.tensors["blk.1.attn_qkv.weight"];
        assert_eq!((qkv.block_type, &qkv.shape[..]), (BlockType::TQ2_0, &[768, 256][..]));
        let found = qkv.trits().unwrap().unwrap();
        let bias = file.tensors["blk.1.attn_qkv.bias"].floats().unwrap();
        for (third, letter) in ["q", "k", "v"].into_iter().enumerate() {
            let name = format!("model.layers.1.self_attn.{letter}_proj.weight");
            let expected = trits(&name, 256 * 256);
            assert!(found.trits[third * 256 * 256..][..256 * 256] == expected, "{name}");
            let d = half::f16::from_f32(scale(&name)).to_f32();
            assert!(found.scales[third * 256..][..256].iter().all(|&scale| scale == d), "{name}");
            let name = format!("model.layers.1.self_attn.{letter}_proj.bias");
            let expected = if biases { values(&name, 256) } else { vec![0.0; 256] };
            assert_eq!(bias[third * 256..][..256], expected, "{name}");
        }
        let bias = file.tensors["blk.0.ffn_down.bias"].floats().unwrap();
        assert_eq!(bias.iter().any(|&value| value != 0.0), biases);
        assert_eq!(
            file.find("gpt2.attention.layer_norm_epsilon").unwrap(),
            Some(f64::from(1e-5f32))
        );
    }
}

#[test]
fn bitnet_has_two_names_and_one_is_bitnet_cpps_alone() {
    let mut config = config(Architecture::Bitnet);
    let model_of = model(config.clone());
    let bytes_of = bytes(&model_of, None);
    let file = Gguf::parse(&bytes_of).unwrap();
    assert_eq!(file.find("general.architecture").unwrap(), Some("bitnet-b1.58"));
    let name = "model.layers.0.self_attn.q_proj.weight";
    let view = &file.tensors["blk.0.attn_q.weight"];
    // Not permuted: this architecture rotates halves.
    assert_eq!(view.block_type, BlockType::I2_S);
    assert_eq!(trits_of(view), trits(name, 256 * 256));
    assert_eq!(view.trits().unwrap().unwrap().scales, [scale(name)]);
    assert!(file.tensors.contains_key("blk.0.ffn_sub_norm.weight"));
    let message = refused(config.clone(), Some(BlockType::TQ2_0));
    assert!(message.contains("bitnet.cpp alone") && message.contains("--type i2_s"), "{message}");
    config.hidden_act = HiddenAct::Silu;
    let model = model(config);
    let bytes = bytes(&model, None);
    let file = Gguf::parse(&bytes).unwrap();
    assert_eq!(file.find("general.architecture").unwrap(), Some("bitnet"));
    assert_eq!(file.tensors["blk.0.attn_q.scale"].floats().unwrap(), [scale(name)]);
}

#[test]
fn float_models_go_as_floats() {
    let config = ModelConfig { tie_word_embeddings: false, ..config(Architecture::Llama) };
    let model = model(config.clone());
    let bytes = bytes(&model, Some(BlockType::F32));
    let file = Gguf::parse(&bytes).unwrap();
    let name = "model.layers.0.mlp.gate_proj.weight";
    assert_eq!(file.tensors["blk.0.ffn_gate.weight"].floats().unwrap(), values(name, 512 * 256));
    assert_eq!(file.tensors["output.weight"].shape, [model.config().vocab_size, 256]);
    let message = refused(config, Some(BlockType::TQ1_0));
    assert!(message.contains("this model is float: --type f16 or q8_0"), "{message}");
}

#[test]
fn what_no_architecture_computes_is_refused_with_its_part() {
    let plain = config(Architecture::Bitlm);
    for (config, words) in [
        (config(Architecture::Bitgpt), "model.ternary_head is true: no GGUF architecture"),
        (
            ModelConfig { ternary_head: false, ..config(Architecture::Bitgpt) },
            "model.norm must be layer for learned positions",
        ),
        (config(Architecture::Tern), "model.qk_norm is true"),
        (ModelConfig { qk_norm: false, ..config(Architecture::Tern) }, ""),
        (
            ModelConfig { hidden_act: HiddenAct::Relu2, ..plain.clone() },
            "model.hidden_act must be silu without sub-norms, is Relu2",
        ),
        (ModelConfig { mlp_gate: false, ..plain.clone() }, "model.mlp_gate must be true"),
        (
            ModelConfig { tie_word_embeddings: false, ..config(Architecture::Bitnet) },
            "model.tie_word_embeddings must be true",
        ),
        (
            ModelConfig { head_dim: 32, ..config(Architecture::Gpt2) },
            "must be hidden_size (256) in this GGUF architecture, is 128",
        ),
    ] {
        if words.is_empty() {
            // Without QK-norm the preset `tern` is a BitNet.
            assert!(export(&model(config), None).is_ok());
            continue;
        }
        let message = refused(config, None);
        assert!(message.contains(words), "lacks {words:?}: {message}");
        assert!(message.contains("model."), "{message}");
    }
}

#[test]
fn a_width_that_no_block_fits_names_the_types_that_do() {
    let narrow = ModelConfig { intermediate_size: 336, ..config(Architecture::Bitlm) };
    let message = refused(narrow.clone(), Some(BlockType::TQ2_0));
    assert!(message.contains("mlp.down_proj.weight"), "{message}");
    let words = "needs rows of a multiple of 256, these have 336: --type f16 or f32";
    assert!(message.contains(words), "{message}");
    assert_eq!(export(&model(narrow), None).unwrap().linear, BlockType::F16);
    let narrow = ModelConfig { intermediate_size: 384, ..config(Architecture::Bitlm) };
    let message = refused(narrow, Some(BlockType::TQ2_0));
    assert!(message.contains("--type f16 or q8_0"), "{message}");
}

#[test]
fn scales_are_never_collapsed() {
    let config = config(Architecture::Gpt2);
    let message = refused(config.clone(), Some(BlockType::I2_S));
    assert!(message.contains("one scale a tensor"), "{message}");
    let mut tiny = model(config);
    let name = "model.layers.0.mlp.up_proj.weight";
    let Some(Tensor::Ternary(ternary)) = tiny.tensors.get_mut(name) else { panic!() };
    ternary.scale = 1e-6;
    let layout = export(&tiny, None).unwrap().layout;
    let message = layout.write_to(&mut Vec::new()).unwrap_err().to_string();
    assert!(message.contains("holds scales of"), "{message}");
    assert!(message.contains("blk.0.ffn_up.weight"), "{message}");
}

#[test]
fn eight_bit_activations_do_not_change_the_file_and_formulas_do_not_either() {
    let plain = config(Architecture::Bitlm);
    let quantized = ModelConfig {
        activation_quantizer: ActivationQuantizer::Int8,
        quantizer: Quantizer::Seed1,
        ..plain.clone()
    };
    let (plain, quantized) = (model(plain), model(quantized));
    let (plain, quantized) = (bytes(&plain, None), bytes(&quantized, None));
    let (plain, quantized) = (Gguf::parse(&plain).unwrap(), Gguf::parse(&quantized).unwrap());
    assert_eq!(plain.tensors, quantized.tensors);
}
