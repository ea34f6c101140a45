//! For tests: tiny models made in code, and the whole decoder once more, in f64 and as plainly as it can be
//! written.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tern_format::config::{ActivationQuantizer, Architecture, ModelConfig};
use tern_format::packed::{FloatTensor, FloatType, Metadata, PackedModel, Tensor, TernaryTensor};
use tern_format::tokenizer::TokenizerSource;

/// Ids of the tokenizer of [`bytes_tokenizer`] after its 256 bytes.
pub(crate) const BOS: u32 = 256;
pub(crate) const EOS: u32 = 257;

/// Widths that are no multiple of any block, two groups of query heads, two blocks.
pub(crate) fn config(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        vocab_size: 258,
        hidden_size: 37,
        intermediate_size: 51,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 6,
        max_position_embeddings: 300,
        ..ModelConfig::preset(architecture)
    }
}

/// One token for each byte, so that a character beyond ASCII is several tokens.
pub(crate) fn bytes_tokenizer() -> TokenizerSource {
    let mut next = 256;
    let symbol = |byte: u8| -> char {
        if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).unwrap()
    };
    let mut vocabulary: Vec<String> =
        (0..=255).map(symbol).map(|c| serde_json::to_string(&c).unwrap()).collect();
    vocabulary.extend(["\"<s>\"".into(), "\"</s>\"".into()]);
    let entries: Vec<String> =
        vocabulary.iter().enumerate().map(|(id, token)| format!("{token}:{id}")).collect();
    let special = |id: u32, token: &str| {
        format!(
            r#"{{"id":{id},"content":"{token}","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}}"#
        )
    };
    TokenizerSource::Json(format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{},{}],"normalizer":null,
        "pre_tokenizer":{{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false}},
        "post_processor":null,"decoder":{{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false}},
        "model":{{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
        "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{{{}}},"merges":[]}}}}"#,
        special(BOS, "<s>"),
        special(EOS, "</s>"),
        entries.join(",")
    ))
}

/// Noise of unit variance (uniform).
pub(crate) fn noise(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() as f32 / 2f32.powi(31) - 1.0) * 3f32.sqrt()
}

/// A random model with healthy scales: trits where the config declares them, else floats.
pub(crate) fn packed(config: &ModelConfig, seed: u64) -> PackedModel {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = BTreeMap::new();
    for (name, shape) in config.tensors() {
        let count: usize = shape.iter().product();
        let tensor = if config.is_ternary_matrix(&name) {
            let trits: Vec<i8> = (0..count).map(|_| (random.next_u32() % 3) as i8 - 1).collect();
            let scale = 1.0 / (shape[1] as f32).sqrt();
            Tensor::Ternary(TernaryTensor::from_trits(&trits, shape[1], scale))
        } else {
            let (mean, width) = if shape.len() == 1 { (1.0, 0.2) } else { (0.0, 0.3) };
            let values: Vec<f32> = (0..count).map(|_| mean + width * noise(&mut random)).collect();
            Tensor::Float(FloatTensor::new(shape, FloatType::F32, &values))
        };
        tensors.insert(name, tensor);
    }
    let metadata = Metadata::new(config.clone(), bytes_tokenizer());
    PackedModel { metadata: Metadata { bos: Some(BOS), eos: Some(EOS), ..metadata }, tensors }
}

/// The logits `[seq, vocab_size]` of the formulas, in f64.
pub(crate) fn logits(packed: &PackedModel, ids: &[u32]) -> Vec<Vec<f64>> {
    let config = packed.config();
    let layer = |layer: usize, part: &str| weights(packed, &format!("model.layers.{layer}.{part}"));
    let embed = weights(packed, "model.embed_tokens");
    let hidden = config.hidden_size;
    let row = |w: &[f64], r: usize, width: usize| w[r * width..][..width].to_vec();
    let mut x: Vec<Vec<f64>> = ids.iter().map(|&id| row(&embed, id as usize, hidden)).collect();
    let int8 = config.activation_quantizer == ActivationQuantizer::Int8;
    let linear = |w: &[f64], x: &[f64]| {
        let x = if int8 { fake_quantized(x) } else { x.to_vec() };
        product(w, &x)
    };
    let eps = config.rms_norm_eps;
    for l in 0..config.num_hidden_layers {
        let gain = layer(l, "input_layernorm");
        let normed: Vec<_> = x.iter().map(|x| norm(x, &gain, eps)).collect();
        let each = |part: &str| -> Vec<Vec<f64>> {
            let w = layer(l, part);
            normed.iter().map(|x| linear(&w, x)).collect()
        };
        let rotated = |part: &str| -> Vec<Vec<f64>> {
            each(part).iter().enumerate().map(|(t, x)| rotated(x, t, config)).collect()
        };
        let (q, k, v) =
            (rotated("self_attn.q_proj"), rotated("self_attn.k_proj"), each("self_attn.v_proj"));
        let o_proj = layer(l, "self_attn.o_proj");
        for (t, x) in x.iter_mut().enumerate() {
            add(x, &linear(&o_proj, &attention(&q[t], &k[..=t], &v[..=t], config)));
        }
        let gain = layer(l, "post_attention_layernorm");
        let (gate, up) = (layer(l, "mlp.gate_proj"), layer(l, "mlp.up_proj"));
        let down = layer(l, "mlp.down_proj");
        for x in &mut x {
            let normed = norm(x, &gain, eps);
            let gates = linear(&gate, &normed).into_iter().map(|g| g / (1.0 + (-g).exp()));
            let gated: Vec<f64> = gates.zip(linear(&up, &normed)).map(|(g, u)| g * u).collect();
            add(x, &linear(&down, &gated));
        }
    }
    let gain = weights(packed, "model.norm");
    let head = if config.tie_word_embeddings { embed } else { weights(packed, "lm_head") };
    x.iter().map(|x| product(&head, &norm(x, &gain, eps))).collect()
}

fn weights(packed: &PackedModel, name: &str) -> Vec<f64> {
    match &packed.tensors[&format!("{name}.weight")] {
        Tensor::Float(float) => float.values().iter().map(|&value| f64::from(value)).collect(),
        Tensor::Ternary(ternary) => {
            let scale = f64::from(ternary.scale);
            ternary.trits().unwrap().iter().map(|&trit| f64::from(trit) * scale).collect()
        }
    }
}

fn product(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

fn fake_quantized(x: &[f64]) -> Vec<f64> {
    let k = 127.0 / x.iter().fold(1e-5, |most: f64, x| most.max(x.abs()));
    x.iter().map(|x| (x * k).round_ties_even() / k).collect()
}

fn norm(x: &[f64], gain: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(gain).map(|(x, gain)| x / (mean + eps).sqrt() * gain).collect()
}

fn rotated(x: &[f64], position: usize, config: &ModelConfig) -> Vec<f64> {
    let half = config.head_dim / 2;
    let mut out = x.to_vec();
    for head in out.chunks_exact_mut(config.head_dim) {
        for i in 0..half {
            let exponent = -2.0 * i as f64 / config.head_dim as f64;
            let (sin, cos) = (position as f64 * config.rope_theta.powf(exponent)).sin_cos();
            let (a, b) = (head[i], head[i + half]);
            (head[i], head[i + half]) = (a * cos - b * sin, b * cos + a * sin);
        }
    }
    out
}

fn attention(q: &[f64], k: &[Vec<f64>], v: &[Vec<f64>], config: &ModelConfig) -> Vec<f64> {
    let width = config.head_dim;
    let shared = config.num_attention_heads / config.num_key_value_heads;
    let heads = q.chunks_exact(width).enumerate();
    heads
        .flat_map(|(head, q)| {
            let part = |x: &Vec<f64>| x[head / shared * width..][..width].to_vec();
            let score = |k: &Vec<f64>| {
                part(k).iter().zip(q).map(|(k, q)| k * q).sum::<f64>() / (width as f64).sqrt()
            };
            let scores: Vec<f64> = k.iter().map(score).map(f64::exp).collect();
            let total: f64 = scores.iter().sum();
            (0..width)
                .map(|i| scores.iter().zip(v).map(|(p, v)| p / total * part(v)[i]).sum())
                .collect::<Vec<f64>>()
        })
        .collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
