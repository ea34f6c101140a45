#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;
use crate::import::tests::{TOKENIZER, difference, golden};
use tern_format::safetensors::Contents;

/// The weights of a golden as a state dict, with names of its own.
fn weights(name: &str) -> BTreeMap<String, pytorch::Tensor> {
    let bytes = std::fs::read(golden(name).join("model.safetensors")).unwrap();
    let contents = Contents::parse(&bytes).unwrap();
    let tensor = |(name, view): (String, tern_format::safetensors::View<'_>)| {
        let bytes = view.bytes.to_vec();
        (name, pytorch::Tensor { element_type: ElementType::F32, shape: view.shape, bytes })
    };
    contents.tensors.into_iter().map(tensor).collect()
}

fn tokenizer() -> TokenizerSource {
    TokenizerSource::Json(TOKENIZER.into())
}

fn settings(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn imported(dict: &BTreeMap<String, pytorch::Tensor>, set: Value) -> Result<PackedModel> {
    state_dict(dict, tokenizer(), &settings(set), Latent::Ternarize)
}

#[test]
fn the_seeds_meet_their_goldens_under_their_own_names() {
    let gpt2 = json!({"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8});
    let mut float = gpt2.clone();
    float["quantizer"] = "none".into();
    for (name, set, architecture) in [
        ("bitlm_w", json!({"max_position_embeddings": 64}), Architecture::Bitlm),
        ("bitlm_fp", json!({"quantizer": "none"}), Architecture::Bitlm),
        ("bitgpt_seed000", json!({}), Architecture::Bitgpt),
        ("bitgpt_seed000", json!({"quantizer": "minilm"}), Architecture::Bitgpt),
        ("bitgpt_seed000_fphead", json!({"ternary_head": false}), Architecture::Bitgpt),
        ("gpt2_fp", float, Architecture::Gpt2),
        ("bitgpt2_w", gpt2, Architecture::Gpt2),
    ] {
        let model = imported(&weights(name), set).unwrap();
        assert_eq!(model.config().architecture, architecture);
        let worst = difference(&model, name, "logits", |_| ());
        assert!(worst < 1e-5, "{name}: {worst:e}");
    }
}

#[test]
fn a_checkpoint_of_a_seed_is_read_from_its_file() {
    let bytes = std::fs::read(golden("pytorch/bitlm_w.pt")).unwrap();
    let model = imported(&pytorch::parse(&bytes).unwrap(), json!({})).unwrap();
    assert_eq!(model, imported(&weights("bitlm_w"), json!({})).unwrap());
    let worst = difference(&model, "bitlm_w", "logits", |_| ());
    assert!(worst < 1e-5, "{worst:e}");
}

#[test]
fn eight_bit_activations_are_a_setting() {
    let model = imported(&weights("bitlm_wa"), json!({"activation_quantizer": "int8"})).unwrap();
    let worst = difference(&model, "bitlm_wa", "logits", |_| ());
    // A code flips where another order of sums rounds the other way.
    assert!(worst < 3e-2, "{worst:e}");
}

/// Rows of several matrices, one after the other.
fn stacked(dict: &BTreeMap<String, pytorch::Tensor>, names: &[String]) -> pytorch::Tensor {
    let all: Vec<_> = names.iter().map(|name| &dict[name]).collect();
    pytorch::Tensor {
        element_type: ElementType::F32,
        shape: vec![all.iter().map(|tensor| tensor.shape[0]).sum(), all[0].shape[1]],
        bytes: all.iter().flat_map(|tensor| tensor.bytes.clone()).collect(),
    }
}

#[test]
fn fused_matrices_wrappers_and_tied_heads_change_nothing() {
    let plain = weights("bitlm_w");
    let expected = imported(&plain, json!({})).unwrap();
    let mut fused = plain.clone();
    for layer in 0..2 {
        let name = |part: &str| format!("blocks.{layer}.{part}.weight");
        for (whole, parts) in [("qkv", &["q", "k", "v"][..]), ("gate_up", &["gate", "up"])] {
            let names: Vec<_> = parts.iter().map(|part| name(part)).collect();
            fused.insert(name(whole), stacked(&plain, &names));
            names.iter().for_each(|name| drop(fused.remove(name)));
        }
    }
    fused.insert("head.weight".into(), plain["embed.weight"].clone());
    fused.insert("cos".into(), plain["norm.weight"].clone());
    let fused = fused.into_iter().map(|(name, tensor)| (format!("model.{name}"), tensor)).collect();
    assert_eq!(imported(&fused, json!({})).unwrap(), expected);
    // A head of its own is one.
    let mut untied = plain.clone();
    let mut head = plain["embed.weight"].clone();
    head.bytes[0] ^= 1;
    untied.insert("lm_head.weight".into(), head);
    let model = imported(&untied, json!({})).unwrap();
    assert!(!model.config().tie_word_embeddings && model.tensors.contains_key("lm_head.weight"));
}

#[test]
fn a_projected_matrix_keeps_its_trits_and_its_scale() {
    let mut dict = weights("bitlm_w");
    let q = dict.get_mut("blocks.0.q.weight").unwrap();
    let values = (0..q.shape[0] * q.shape[1]).map(|i| [0.37f32, 0.0, -0.37][i % 3]);
    q.bytes = values.flat_map(f32::to_le_bytes).collect();
    let model = imported(&dict, json!({})).unwrap();
    let Tensor::Ternary(q) = &model.tensors["model.layers.0.self_attn.q_proj.weight"] else {
        panic!()
    };
    // Once more through the quantizer, the scale would be two thirds of that.
    assert_eq!((q.scale, &q.trits().unwrap()[..3]), (0.37, &[1, 0, -1][..]));
}

#[test]
fn queries_keys_and_values_of_gpt2_have_the_scale_of_all_three() {
    let dict = weights("bitgpt2_w");
    let scales = |dict: &BTreeMap<String, pytorch::Tensor>| {
        let heads = json!({"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8});
        let model = imported(dict, heads).unwrap();
        ["q", "k", "v"].map(|part| format!("model.layers.1.self_attn.{part}_proj.weight")).map(
            |name| match &model.tensors[&name] {
                Tensor::Ternary(ternary) => ternary.scale,
                Tensor::Float(_) => panic!("{name} is float"),
            },
        )
    };
    let [q, k, v] = scales(&dict);
    let fused = &dict["transformer.h.1.attn.c_attn.weight"];
    let (_, expected) = ternarize_as_one(&[fused.floats().unwrap()], 1e-5);
    assert!((q - expected).abs() <= 1e-6 * expected && q == k && q == v, "{q} {k} {v} {expected}");
    // Projected one by one, they have scales of their own.
    let mut projected = dict;
    let fused = projected.get_mut("transformer.h.1.attn.c_attn.weight").unwrap();
    let (width, inputs) = (fused.shape[1], fused.shape[0]);
    let third = |i: usize| [0.25f32, 0.5, -0.75][i % width / (width / 3)];
    fused.bytes = (0..inputs * width).flat_map(|i| third(i).to_le_bytes()).collect();
    assert_eq!(scales(&projected), [0.25, 0.5, 0.75]);
}

#[test]
fn what_is_latent_can_be_kept_and_is_called_so() {
    let kept = state_dict(&weights("bitlm_w"), tokenizer(), &Map::new(), Latent::Keep).unwrap();
    let report = crate::verify::verify_model(kept, 1).unwrap();
    assert_eq!(report.verdict, crate::verify::Verdict::Latent);
    let packed = imported(&weights("bitlm_w"), json!({})).unwrap();
    let report = crate::verify::verify_model(packed, 1).unwrap();
    assert_eq!(report.verdict, crate::verify::Verdict::Packed);
}

#[test]
fn what_does_not_fit_is_named() {
    let plain = weights("bitlm_w");
    let refused = |change: &dyn Fn(&mut BTreeMap<String, pytorch::Tensor>), set: Value| {
        let mut dict = plain.clone();
        change(&mut dict);
        imported(&dict, set).map(|_| ()).unwrap_err().to_string()
    };
    let nothing = |_: &mut BTreeMap<String, pytorch::Tensor>| ();
    for (message, words) in [
        (refused(&nothing, json!({"heads": 2})), "`heads`: the model has no such setting"),
        (refused(&nothing, json!({"hidden_size": "x"})), "`hidden_size`: invalid type"),
        (refused(&nothing, json!({"num_attention_heads": 3})), "num_key_value_heads must divide"),
        (refused(&nothing, json!({"num_hidden_layers": 3000})), "there are only 20 tensors"),
        (
            refused(&|dict| drop(dict.remove("blocks.1.o.weight")), json!({})),
            "`model.layers.1.self_attn.o_proj.weight`: the config asks for it",
        ),
        (refused(&|dict| drop(dict.remove("norm.weight")), json!({})), "`model.norm.weight`"),
        (
            refused(
                &|dict| drop(dict.insert("extra".into(), plain["norm.weight"].clone())),
                json!({}),
            ),
            "`extra`: the config has no such tensor",
        ),
        (
            refused(&|dict| dict.get_mut("norm.weight").unwrap().shape.push(1), json!({})),
            "`norm.weight`: the shape must be [32], is [32, 1]",
        ),
        (
            refused(&|dict| dict.retain(|name, _| !name.starts_with("blocks")), json!({})),
            "of no model known here",
        ),
        (
            refused(
                &|dict| dict.get_mut("norm.weight").unwrap().element_type = ElementType::I32,
                json!({}),
            ),
            "must hold floats, holds I32",
        ),
        (
            refused(
                &|dict| {
                    let norm = plain["norm.weight"].clone();
                    dict.insert("blocks.18446744073709551615.o.weight".into(), norm);
                },
                json!({}),
            ),
            "num_hidden_layers must be",
        ),
    ] {
        assert!(message.contains(words), "lacks {words:?}: {message}");
    }
}
