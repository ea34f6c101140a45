#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::decoder::Model;
use tern_format::config::{
    ActivationQuantizer, Architecture, ModelConfig, Norm, Position, Quantizer,
};

/// A vocabulary of one word: nothing here is text.
pub(super) const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{"a":0},"merges":[]}}"#;

pub(super) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens").join(name)
}

/// A copy of a golden's directory with a tokenizer, and with the configuration that `edit` makes of its own.
pub(super) fn directory(
    name: &str,
    edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(golden(name).join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    // Goldens of training have the model's configuration in a part of theirs.
    if let Some(inner) = config.get_mut("config") {
        config = inner.take();
    }
    edit(config.as_object_mut().unwrap());
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(copy.path().join("tokenizer.json"), TOKENIZER).unwrap();
    let weights = golden(name).join("model.safetensors");
    std::fs::copy(weights, copy.path().join("model.safetensors")).unwrap();
    copy
}

/// The ids of a golden, `[batch, seq]`, and its logits `[batch * seq, vocab_size]` under a name.
fn expected(name: &str, logits: &str) -> (Vec<Vec<u32>>, Vec<f32>) {
    let bytes = std::fs::read(golden(name).join("io.safetensors")).unwrap();
    let contents = Contents::parse(&bytes).unwrap();
    let ids = &contents.tensors["input_ids"];
    let all: Vec<u32> = ids
        .bytes
        .as_chunks()
        .0
        .iter()
        .map(|&id| u32::try_from(i64::from_le_bytes(id)).unwrap())
        .collect();
    let rows = all.chunks_exact(ids.shape[1]).map(<[u32]>::to_vec).collect();
    (rows, contents.tensors[logits].floats().unwrap())
}

/// The largest difference of the logits from a golden's, as a share of its largest logit, for every kernel; and that a token
/// after the other gives the same.
pub(super) fn difference(
    packed: &PackedModel,
    name: &str,
    logits: &str,
    change: impl Fn(&mut Model),
) -> f32 {
    let (ids, expected) = expected(name, logits);
    let largest = expected.iter().fold(0.0f32, |most, logit| most.max(logit.abs()));
    let mut worst = 0.0f32;
    for kernel in tern_kernels::ternary::Kernel::available() {
        let mut model = Model::with_engine(packed.clone(), kernel.into()).unwrap();
        change(&mut model);
        let mut found = Vec::new();
        for row in &ids {
            let together = model.logits_all(row, &mut model.cache()).unwrap();
            let mut cache = model.cache();
            let each = row.iter().flat_map(|&id| model.logits_last(&[id], &mut cache).unwrap());
            assert!(each.eq(together.iter().copied()), "{name} {}", kernel.name());
            found.extend(together);
        }
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            worst = worst.max((found - expected).abs() / largest);
        }
    }
    worst
}

#[test]
fn llama_gpt2_and_bitnet_meet_their_goldens() {
    for (name, logits) in [
        ("hf_llama_ckpt", "logits"),
        ("llama_fp", "logits"),
        ("hf_gpt2_ckpt", "logits"),
        ("gpt2_fp", "logits"),
        ("bitnet_hf_fp", "logits"),
    ] {
        let directory = directory(name, |_| ());
        let packed = huggingface(directory.path(), &Options::default()).unwrap().model;
        let worst = difference(&packed, name, logits, |_| ());
        assert!(worst < 1e-5, "{name}: {worst:e}");
    }
}

#[test]
fn weights_of_half_the_width_are_used_as_they_are() {
    let name = "hf_llama_ckpt_bf16";
    let packed = huggingface(directory(name, |_| ()).path(), &Options::default()).unwrap().model;
    let Tensor::Float(embedding) = &packed.tensors["model.embed_tokens.weight"] else { panic!() };
    assert_eq!(embedding.dtype, FloatType::BF16);
    // The golden was widened as a whole after it had been narrowed, the rotary frequencies with it.
    let narrow = |model: &mut Model| {
        for frequency in model.rope.as_mut().unwrap().frequencies_mut() {
            let narrow = FloatTensor::new(vec![1], FloatType::BF16, &[*frequency as f32]);
            *frequency = f64::from(narrow.values()[0]);
        }
    };
    let worst = difference(&packed, name, "logits_fp32_compute", narrow);
    assert!(worst < 1e-5, "{worst:e}");
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    for name in ["hf_llama_ckpt", "hf_gpt2_ckpt"] {
        let packed =
            huggingface(directory(name, |_| ()).path(), &Options::default()).unwrap().model;
        let bytes = std::fs::read(golden(name).join("io.safetensors")).unwrap();
        let contents = Contents::parse(&bytes).unwrap();
        let ids = contents.tensors["greedy"].bytes.as_chunks().0.iter();
        let ids: Vec<u32> = ids.map(|&id| u32::try_from(i64::from_le_bytes(id)).unwrap()).collect();
        let model = Model::load(packed).unwrap();
        let mut cache = model.cache();
        let mut next = model.candidates(&ids[..5], &mut cache, Some(1)).unwrap();
        for &expected in &ids[5..] {
            let most = next.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            assert_eq!(most.0, expected, "{name}");
            next = model.candidates(&[expected], &mut cache, Some(1)).unwrap();
        }
    }
}

/// Eight-bit activations: a code may flip where another order of sums rounds another way, and flips no more than a few logits
/// by a few hundredths of the largest.
const FLIPPED: f32 = 3e-2;

#[test]
fn ternary_bitnet_meets_its_goldens_however_it_is_stored() {
    let packed = huggingface(directory("bitnet_hf_packed", |_| ()).path(), &Options::default())
        .unwrap()
        .model;
    let declared =
        |packed: &PackedModel| packed.tensors.values().filter(|tensor| tensor.is_ternary()).count();
    assert_eq!(declared(&packed), 14);
    for logits in ["logits_offline_autobitlinear", "logits_online_from_master"] {
        let worst = difference(&packed, "bitnet_hf_packed", logits, |_| ());
        assert!(worst < 1e-5, "{logits}: {worst:e}");
    }
    // The class that divides by the scale, with the scales that multiply: another model, which the golden has too.
    let divided = directory("bitnet_hf_packed", |config| {
        config["quantization_config"]["linear_class"] = "bitlinear".into();
    });
    let divided = huggingface(divided.path(), &Options::default()).unwrap().model;
    let Tensor::Ternary(one) = &divided.tensors["model.layers.0.mlp.up_proj.weight"] else {
        panic!()
    };
    let Tensor::Ternary(other) = &packed.tensors["model.layers.0.mlp.up_proj.weight"] else {
        panic!()
    };
    assert_eq!(one.scale, other.scale.recip());
    assert_eq!(one.bytes, other.bytes);

    let online = directory("bitnet_hf_online", |config| {
        config.insert(
            "quantization_config".into(),
            serde_json::json!({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}),
        );
    });
    let online = huggingface(online.path(), &Options::default()).unwrap().model;
    assert_eq!(declared(&online), 14);
    let worst = difference(&online, "bitnet_hf_online", "logits", |_| ());
    assert!(worst < FLIPPED, "{worst:e}");
}

#[test]
fn bitgpt_meets_its_goldens_with_either_head() {
    for (name, ternary_head) in [("bitgpt_seed000", true), ("bitgpt_seed000_fphead", false)] {
        let config = ModelConfig {
            vocab_size: 128,
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 4,
            head_dim: 8,
            max_position_embeddings: 32,
            ternary_head,
            ..ModelConfig::preset(Architecture::Bitgpt)
        };
        assert_eq!((config.position, config.final_norm), (Position::Learned, Norm::Layer));
        assert_eq!(config.activation_quantizer, ActivationQuantizer::Int8);
        assert_eq!(config.quantizer, Quantizer::B158);
        let bytes = std::fs::read(golden(name).join("model.safetensors")).unwrap();
        let contents = Contents::parse(&bytes).unwrap();
        let theirs = |ours: &str| {
            let renamed = [
                ("model.embed_tokens", "tok"),
                ("model.embed_positions", "pos"),
                ("lm_head", "tok"),
                ("model.norm", "norm_f"),
                ("model.layers.", "blocks."),
                ("input_layernorm", "norm1"),
                ("post_attention_layernorm", "norm2"),
                ("self_attn.", ""),
                ("mlp.", ""),
                ("_proj", ""),
            ];
            renamed.iter().fold(ours.to_owned(), |name, (ours, theirs)| name.replace(ours, theirs))
        };
        let mut tensors = BTreeMap::new();
        for (name, shape) in config.tensors() {
            let values = contents.tensors[&theirs(&name)].floats().unwrap();
            let tensor = if config.is_ternary_matrix(&name) {
                let (trits, scale) = ternarize(&values, 0.0);
                Tensor::Ternary(TernaryTensor::from_trits(&trits, shape[1], scale))
            } else {
                Tensor::Float(FloatTensor::new(shape, FloatType::F32, &values))
            };
            tensors.insert(name, tensor);
        }
        let metadata = Metadata::new(config, TokenizerSource::Json(TOKENIZER.into()));
        let packed = PackedModel { metadata, tensors };
        let worst = difference(&packed, name, "logits", |_| ());
        assert!(worst < 1e-5, "{name}: {worst:e}");
        // What is imported can be written and read.
        let bytes = packed.to_bytes().unwrap();
        assert_eq!(PackedModel::from_bytes(&bytes).unwrap(), packed);
    }
}

#[test]
fn shards_are_one_model_and_lead_nowhere_else() {
    let whole = directory("hf_llama_ckpt", |_| ());
    let expected = huggingface(whole.path(), &Options::default()).unwrap().model;
    let file = whole.path().join("model.safetensors");
    std::fs::rename(&file, whole.path().join("model-00001-of-00001.safetensors")).unwrap();
    let index = |name: &str| format!(r#"{{"metadata": {{}}, "weight_map": {{"a": "{name}"}}}}"#);
    let path = whole.path().join("model.safetensors.index.json");
    std::fs::write(&path, index("model-00001-of-00001.safetensors")).unwrap();
    assert_eq!(huggingface(whole.path(), &Options::default()).unwrap().model, expected);
    for name in ["../model.safetensors", "/etc/passwd", "..", ""] {
        std::fs::write(&path, index(name)).unwrap();
        let message = huggingface(whole.path(), &Options::default()).unwrap_err().to_string();
        assert!(message.contains("a shard must be a file beside the index"), "{name}: {message}");
    }
}

#[test]
fn what_is_missing_or_does_not_fit_is_named_with_its_file() {
    let refused = |directory: &tempfile::TempDir| {
        huggingface(directory.path(), &Options::default()).map(|_| ()).unwrap_err().to_string()
    };
    let copy =
        directory("hf_llama_ckpt", |config| drop(config.insert("vocab_size".into(), 161.into())));
    let message = refused(&copy);
    assert!(message.contains("model.safetensors: tensor `model.embed_tokens.weight`"), "{message}");
    assert!(message.contains("must be [161, 48], is [160, 48]"), "{message}");
    let copy = directory("hf_llama_ckpt", |config| {
        drop(config.insert("num_hidden_layers".into(), 3.into()));
    });
    let message = refused(&copy);
    assert!(message.contains("`layers.2.input_layernorm.weight`"), "{message}");
    let copy = directory("hf_llama_ckpt", |config| {
        drop(config.insert("num_hidden_layers".into(), 1.into()));
    });
    assert!(refused(&copy).contains("the config has no such tensor"), "{}", refused(&copy));
    let copy =
        directory("hf_llama_ckpt", |config| drop(config.insert("sliding_window".into(), 5.into())));
    assert!(
        refused(&copy).contains("config.json: metadata `sliding_window`"),
        "{}",
        refused(&copy)
    );
    let copy = directory("hf_llama_ckpt", |_| ());
    std::fs::remove_file(copy.path().join("tokenizer.json")).unwrap();
    assert!(refused(&copy).contains("holds no tokenizer.json"), "{}", refused(&copy));
    let given = directory("hf_llama_ckpt", |_| ());
    let tokenizer = Some(given.path().join("tokenizer.json"));
    let options = Options { tokenizer, floats: Some(FloatType::F16), ..Options::default() };
    let model = open(copy.path(), &options).unwrap().model;
    assert_eq!(model.metadata.tokenizer, TokenizerSource::Json(TOKENIZER.into()));
    for tensor in model.tensors.values() {
        let Tensor::Float(float) = tensor else { panic!("no layer is ternary") };
        let expected = if float.shape.len() == 2 { FloatType::F16 } else { FloatType::F32 };
        assert_eq!(float.dtype, expected);
    }
    let message = open(given.path(), &options).unwrap_err().to_string();
    assert!(message.contains("carries a tokenizer of its own"), "{message}");
    std::fs::remove_file(copy.path().join("model.safetensors")).unwrap();
    assert!(refused(&copy).contains("holds no model.safetensors"), "{}", refused(&copy));
}

#[test]
fn the_chat_template_is_the_one_that_transformers_takes() {
    let copy = directory("hf_llama_ckpt", |_| ());
    let import = || {
        let Imported { model, notes, .. } = huggingface(copy.path(), &Options::default()).unwrap();
        (model.metadata.chat_template, notes.join(" "))
    };
    let found = |template: &str, note: &str| (Some(template.to_owned()), note.to_owned());
    assert_eq!(import(), (None, String::new()));
    let write = |template: serde_json::Value| {
        let config = serde_json::json!({"chat_template": template}).to_string();
        std::fs::write(copy.path().join("tokenizer_config.json"), config).unwrap();
    };
    write("one".into());
    assert_eq!(import(), found("one", ""));
    let named = |name: &str| serde_json::json!({"name": name, "template": format!("{name}!")});
    write([named("tool_use"), named("default")].into_iter().collect());
    let note = "tokenizer_config.json has 2 chat templates: `default` is taken";
    assert_eq!(import(), found("default!", note));
    write([named("rag")].into_iter().collect());
    let note = "tokenizer_config.json has 1 chat templates: none is `default`";
    assert_eq!(import(), (None, note.to_owned()));
    write([1].into_iter().collect());
    let error = huggingface(copy.path(), &Options::default()).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json"), "{error}");
    std::fs::write(copy.path().join("chat_template.jinja"), "two").unwrap();
    assert_eq!(import(), found("two", ""));
}
