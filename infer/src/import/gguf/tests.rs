#![allow(clippy::unwrap_used, reason = "tests")]

use tern_format::config::{ActivationQuantizer, Architecture, HiddenAct, Norm};
use tern_format::tokenizer::{Tokenizer, TokenizerSource};

use super::*;
use crate::import::tests::directory;
use crate::import::{Options, huggingface};

/// A GGUF file in the making: keys with kind and value, tensors with sides (innermost first), type and blocks.
#[derive(Clone, Default)]
struct File {
    entries: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<usize>, u32, Vec<u8>)>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn array(kind: u32, len: usize, elements: Vec<u8>) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(len as u64).to_le_bytes(), &elements].concat()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl File {
    fn put(&mut self, key: &str, kind: u32, value: Vec<u8>) -> &mut Self {
        self.entries.retain(|(other, ..)| other != key);
        self.entries.push((key.into(), kind, value));
        self
    }

    fn number(&mut self, key: &str, value: usize) -> &mut Self {
        self.put(key, 4, (value as u32).to_le_bytes().to_vec())
    }

    fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.put(key, 8, text(value))
    }

    fn tensor(&mut self, name: &str, shape: &[usize], number: u32, bytes: Vec<u8>) -> &mut Self {
        self.tensors.retain(|(other, ..)| other != name);
        let sides = shape.iter().rev().copied().collect();
        self.tensors.push((name.into(), sides, number, bytes));
        self
    }

    fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut Self {
        self.tensor(name, shape, 0, f32s(values))
    }

    fn build(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.entries {
            bytes.extend([&text(key)[..], &kind.to_le_bytes(), value].concat());
        }
        let mut offset = 0u64;
        for (name, sides, number, data) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((sides.len() as u32).to_le_bytes());
            sides.iter().for_each(|&side| bytes.extend((side as u64).to_le_bytes()));
            bytes.extend(number.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            offset = (offset + data.len() as u64).next_multiple_of(32);
        }
        for (.., data) in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
            bytes.extend(data);
        }
        bytes
    }

    fn import(&self) -> Result<Imported> {
        gguf(&self.build())
    }

    fn refused(&self) -> String {
        self.import().map(|_| ()).unwrap_err().to_string()
    }
}

/// How a test stores the linear layers.
#[derive(Clone, Copy, PartialEq)]
enum Store {
    F32,
    I2S,
}

/// A file as the converters of llama.cpp make it of a model.
fn written(model: &PackedModel, architecture: &str, store: Store) -> File {
    let config = model.config();
    let mut file = File::default();
    file.text("general.architecture", architecture).text("general.name", "test");
    let key = |key: &str| format!("{architecture}.{key}");
    let heads = config.num_attention_heads;
    for (name, value) in [
        ("vocab_size", config.vocab_size),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("block_count", config.num_hidden_layers),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", heads),
        ("attention.head_count_kv", config.num_key_value_heads),
    ] {
        file.number(&key(name), value);
    }
    let gpt2 = architecture == "gpt2";
    let (name, eps) = if gpt2 {
        ("attention.layer_norm_epsilon", config.layer_norm_eps)
    } else {
        file.number(&key("rope.dimension_count"), config.head_dim);
        file.put(&key("rope.freq_base"), 6, (config.rope_theta as f32).to_le_bytes().to_vec());
        ("attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    };
    file.put(&key(name), 6, (eps as f32).to_le_bytes().to_vec());
    tokenizer(&mut file, config.vocab_size);
    let floats = |name: &str| match &model.tensors[name] {
        Tensor::Float(float) => float.values(),
        Tensor::Ternary(ternary) => {
            let scale = ternary.scale;
            ternary.trits().unwrap().iter().map(|&trit| f32::from(trit) * scale).collect()
        }
    };
    let shapes: BTreeMap<_, _> = config.tensors().into_iter().collect();
    let mut put = |theirs: &str, ours: &str| {
        let Some(shape) = shapes.get(ours) else { return };
        let mut values = floats(ours);
        // `LlamaModel.permute` of llama.cpp's converter: reshape(heads, 2, half, width).swapaxes(1, 2).
        if architecture == "llama" && (ours.contains("q_proj") || ours.contains("k_proj")) {
            let width: usize = shape.iter().skip(1).product();
            let half = config.head_dim / 2;
            let mut permuted = Vec::new();
            for head in 0..shape[0] / config.head_dim {
                for pair in 0..half {
                    for side in 0..2 {
                        let row = head * config.head_dim + side * half + pair;
                        permuted.extend_from_slice(&values[row * width..][..width]);
                    }
                }
            }
            values = permuted;
        }
        match &model.tensors[ours] {
            Tensor::Ternary(ternary) if store == Store::I2S => {
                let bytes = i2_s(&ternary.trits().unwrap(), ternary.scale);
                file.tensor(theirs, shape, 36, bytes);
            }
            _ => _ = file.floats(theirs, shape, &values),
        }
    };
    put("token_embd.weight", "model.embed_tokens.weight");
    put("position_embd.weight", "model.embed_positions.weight");
    for end in ["weight", "bias"] {
        put(&format!("output_norm.{end}"), &format!("model.norm.{end}"));
        for layer in 0..config.num_hidden_layers {
            for (theirs, ours) in [
                ("attn_norm", "input_layernorm"),
                ("ffn_norm", "post_attention_layernorm"),
                ("attn_q", "self_attn.q_proj"),
                ("attn_k", "self_attn.k_proj"),
                ("attn_v", "self_attn.v_proj"),
                ("attn_sub_norm", "self_attn.attn_sub_norm"),
                ("ffn_sub_norm", "mlp.ffn_sub_norm"),
                ("attn_output", "self_attn.o_proj"),
                ("ffn_gate", "mlp.gate_proj"),
                ("ffn_up", "mlp.up_proj"),
                ("ffn_down", "mlp.down_proj"),
            ] {
                if !(gpt2 && ["attn_q", "attn_k", "attn_v"].contains(&theirs)) {
                    put(
                        &format!("blk.{layer}.{theirs}.{end}"),
                        &format!("model.layers.{layer}.{ours}.{end}"),
                    );
                }
            }
        }
    }
    if !config.tie_word_embeddings {
        put("output.weight", "lm_head.weight");
    }
    for layer in (0..config.num_hidden_layers).filter(|_| gpt2) {
        for end in ["weight", "bias"] {
            let part = |part: &str| format!("model.layers.{layer}.self_attn.{part}_proj.{end}");
            let values: Vec<f32> = ["q", "k", "v"].iter().flat_map(|p| floats(&part(p))).collect();
            let mut shape = shapes[&part("q")].clone();
            shape[0] *= 3;
            file.floats(&format!("blk.{layer}.attn_qkv.{end}"), &shape, &values);
        }
    }
    file
}

/// A vocabulary of `a`, `b`, `ab` and words that no text has, with BOS and EOS.
fn tokenizer(file: &mut File, size: usize) {
    let mut tokens: Vec<String> = ["<s>", "</s>", "a", "b", "ab"].map(str::to_owned).to_vec();
    tokens.extend((5..size).map(|id| format!("word{id}")));
    let kinds: Vec<u8> =
        (0..size).flat_map(|id| (if id < 2 { 3i32 } else { 1 }).to_le_bytes()).collect();
    let all = tokens.iter().flat_map(|token| text(token)).collect();
    file.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2");
    file.put("tokenizer.ggml.tokens", 9, array(8, size, all));
    file.put("tokenizer.ggml.token_type", 9, array(5, size, kinds));
    file.put("tokenizer.ggml.merges", 9, array(8, 1, text("a b")));
    file.number("tokenizer.ggml.bos_token_id", 0).number("tokenizer.ggml.eos_token_id", 1);
    file.put("tokenizer.ggml.add_bos_token", 7, vec![1]);
    file.text("tokenizer.chat_template", "{{ messages }}");
}

fn i2_s(trits: &[i8], scale: f32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in trits.chunks_exact(128) {
        let code = |i: usize| (block[i] + 1) as u8;
        bytes.extend(
            (0..32).map(|p| code(p) << 6 | code(32 + p) << 4 | code(64 + p) << 2 | code(96 + p)),
        );
    }
    bytes.extend(scale.to_le_bytes());
    bytes.extend([0; 28]);
    bytes
}

/// `TQ2_0` with a scale for each block of 256.
fn tq2_0(trits: &[i8], scales: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (block, scale) in trits.chunks_exact(256).zip(scales) {
        for half in block.chunks_exact(128) {
            bytes
                .extend((0..32).map(|m| {
                    (0..4).map(|n| ((half[32 * n + m] + 1) as u8) << (2 * n)).sum::<u8>()
                }));
        }
        // Powers of two alone, which need no rounding: the exponent of a half.
        bytes.extend((((scale.log2() as i32 + 15) as u16) << 10).to_le_bytes());
    }
    bytes
}

fn golden(name: &str) -> PackedModel {
    huggingface(directory(name, |_| ()).path(), &Options::default()).unwrap().model
}

/// What an import and a golden must have in common: the tensors to the bit, and the parts that a file can say.
fn assert_same(imported: &PackedModel, expected: &PackedModel) {
    assert_eq!(imported.tensors.len(), expected.tensors.len());
    for (name, tensor) in &expected.tensors {
        assert_eq!(&imported.tensors[name], tensor, "{name}");
    }
    let unseen = |model: &PackedModel| ModelConfig {
        architecture: Architecture::Llama,
        initializer_range: 1.0,
        rms_norm_eps: 1.0,
        layer_norm_eps: 1.0,
        rope_theta: 1.0,
        ..model.config().clone()
    };
    assert_eq!(unseen(imported), unseen(expected));
    for (one, other) in [
        (imported.config().rms_norm_eps, expected.config().rms_norm_eps),
        (imported.config().layer_norm_eps, expected.config().layer_norm_eps),
        (imported.config().rope_theta, expected.config().rope_theta),
    ] {
        assert_eq!(one as f32, other as f32);
    }
}

#[test]
fn a_model_is_the_same_by_way_of_gguf() {
    for (name, architecture, store) in [
        ("hf_llama_ckpt", "llama", Store::F32),
        ("llama_fp", "llama", Store::F32),
        ("hf_gpt2_ckpt", "gpt2", Store::F32),
        ("bitnet_hf_packed", "bitnet-b1.58", Store::I2S),
        ("bitnet_hf_packed", "bitnet-25", Store::I2S),
    ] {
        let expected = golden(name);
        let Imported { model, notes, .. } =
            written(&expected, architecture, store).import().unwrap();
        assert_same(&model, &expected);
        assert_eq!(notes, [""; 0]);
        assert_eq!((model.metadata.bos, model.metadata.eos), (Some(0), Some(1)));
        assert_eq!(model.metadata.chat_template.as_deref(), Some("{{ messages }}"));
        let bytes = model.to_bytes().unwrap();
        assert_eq!(PackedModel::from_bytes(&bytes).unwrap(), model);
        assert_eq!(model.metadata.read_tokenizer().unwrap().encode("ab<s>b").unwrap(), [4, 0, 3]);
    }
}

#[test]
fn the_name_of_bitnet_says_which_activation() {
    let expected = golden("bitnet_hf_packed");
    let of = |name| written(&expected, name, Store::I2S).import().unwrap().model;
    assert_eq!(of("bitnet-b1.58").config().hidden_act, HiddenAct::Relu2);
    let stock = of("bitnet");
    assert_eq!(stock.config().hidden_act, HiddenAct::Silu);
    assert_eq!(stock.config().activation_quantizer, ActivationQuantizer::Int8);
    assert!(stock.config().sub_norm && stock.config().norm == Norm::Rms);
}

#[test]
fn floats_of_one_magnitude_are_a_projected_model_and_others_a_float_one() {
    let expected = golden("bitnet_hf_packed");
    let projected = written(&expected, "bitnet-b1.58", Store::F32).import().unwrap().model;
    assert_eq!(projected.config().quantizer, Quantizer::B158);
    assert_eq!(projected.ternary_parameters(), 0);
    let verdict = crate::verify::verify_model(projected, 1).unwrap().verdict;
    assert_eq!(verdict, crate::verify::Verdict::Projected);
    let float = golden("bitnet_hf_fp");
    let float = written(&float, "bitnet-b1.58", Store::F32).import().unwrap().model;
    assert_eq!(float.config().quantizer, Quantizer::None);
    assert_eq!(float.config().activation_quantizer, ActivationQuantizer::None);
}

/// One block of width 256, every linear layer `TQ2_0`.
fn wide(scales: impl Fn(usize) -> f32) -> File {
    let config = ModelConfig {
        vocab_size: 8,
        hidden_size: 256,
        intermediate_size: 256,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        head_dim: 128,
        ..ModelConfig::preset(Architecture::Bitlm)
    };
    let trits = |count: usize| (0..count).map(|i| (i * 7 % 11 % 3) as i8 - 1).collect::<Vec<_>>();
    let tensors = config.tensors().into_iter().map(|(name, shape)| {
        let count = shape.iter().product();
        let tensor = if config.is_ternary_matrix(&name) {
            Tensor::Ternary(TernaryTensor::from_trits(&trits(count), shape[1], 0.5))
        } else {
            Tensor::Float(FloatTensor::new(shape, FloatType::F32, &vec![0.25; count]))
        };
        (name, tensor)
    });
    let source = TokenizerSource::Json(String::new());
    let model = PackedModel { tensors: tensors.collect(), metadata: Metadata::new(config, source) };
    let mut file = written(&model, "llama", Store::F32);
    for (name, _, number, bytes) in &mut file.tensors {
        if name.starts_with("blk") && !name.contains("norm") {
            let values = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b));
            let trits: Vec<i8> = values.map(|value| (2.0 * value) as i8).collect();
            let scales: Vec<f32> = (0..trits.len() / 256).map(&scales).collect();
            (*number, *bytes) = (35, tq2_0(&trits, &scales));
        }
    }
    file
}

#[test]
fn trits_with_one_scale_stay_trits_and_others_become_floats_with_a_note() {
    let mut file = wide(|_| 1.0);
    file.floats("blk.0.attn_q.scale", &[1], &[0.37]);
    let Imported { model, notes, .. } = file.import().unwrap();
    assert_eq!((model.ternary_parameters(), notes.len()), (7 * 256 * 256, 0));
    assert_eq!(model.config().activation_quantizer, ActivationQuantizer::None);
    let Tensor::Ternary(q) = &model.tensors["model.layers.0.self_attn.q_proj.weight"] else {
        panic!()
    };
    assert_eq!(q.scale, 0.37);
    // Rows of neighbours in the file are half a head apart here: the first of the second half is the file's second.
    let expected: Vec<i8> = (0..256).map(|i| ((64 * 256 + i) * 7 % 11 % 3) as i8 - 1).collect();
    assert_eq!(q.trits().unwrap()[64 * 256..65 * 256], expected[..]);

    let Imported { model, notes, .. } =
        wide(|block| if block == 3 { 0.5 } else { 1.0 }).import().unwrap();
    assert_eq!((model.ternary_parameters(), notes.len()), (0, 7));
    assert!(notes[0].contains("scales of their own"), "{}", notes[0]);
    let Tensor::Float(up) = &model.tensors["model.layers.0.mlp.up_proj.weight"] else { panic!() };
    assert_eq!(up.dtype, FloatType::F16);
    assert!(up.values()[3 * 256..4 * 256].contains(&0.5) && up.values().contains(&-1.0));
}

#[test]
fn blocks_of_few_bits_become_the_smallest_floats_that_lose_nothing() {
    let mut file = wide(|_| 1.0);
    let block: Vec<u8> = [&0x3555u16.to_le_bytes()[..], &[129; 32]].concat();
    file.tensor("token_embd.weight", &[8, 256], 8, block.repeat(64));
    let model = file.import().unwrap().model;
    let Tensor::Float(embedding) = &model.tensors["model.embed_tokens.weight"] else { panic!() };
    // -127 times a third with 11 bits needs more than 11.
    assert_eq!(embedding.dtype, FloatType::F32);
    assert_eq!(embedding.values()[0], -127.0 * 0.333_251_95);
    let block: Vec<u8> = [&0x3800u16.to_le_bytes()[..], &[3; 32]].concat();
    file.tensor("token_embd.weight", &[8, 256], 8, block.repeat(64));
    let model = file.import().unwrap().model;
    let Tensor::Float(embedding) = &model.tensors["model.embed_tokens.weight"] else { panic!() };
    assert_eq!((embedding.dtype, embedding.values()[0]), (FloatType::F16, 1.5));
}

#[test]
fn what_would_change_the_model_is_refused_by_name() {
    let good = wide(|_| 1.0);
    assert!(good.import().is_ok());
    type Change = fn(&mut File);
    let cases: [(Change, &str); 30] = [
        (|f| _ = f.text("general.architecture", "mamba"), "`general.architecture`: must be llama"),
        (|f| _ = f.text("general.type", "adapter"), "`general.type`: must be model"),
        (|f| _ = f.number("split.count", 2), "`split.count`: must be 1"),
        (|f| _ = f.number("llama.vocab_size", 9), "`llama.vocab_size`: must be 8, is 9"),
        (|f| _ = f.number("llama.expert_count", 8), "`llama.expert_count`: must be 0, is 8"),
        (|f| _ = f.number("llama.rope.dimension_count", 64), "must be 128, is 64"),
        (|f| _ = f.text("llama.rope.scaling.type", "yarn"), "must be none, is yarn"),
        (
            |f| _ = f.put("llama.rope.scaling.factor", 6, 8f32.to_le_bytes().into()),
            "`llama.rope.scaling.factor`: must be 1, is 8",
        ),
        (|f| _ = f.number("llama.attention.sliding_window", 4096), "sliding_window`: must be 0"),
        (|f| _ = f.number("llama.logit_scale", 3), "`llama.logit_scale`: is not known here"),
        (|f| _ = f.number("llama.attention.value_length", 64), "must be 128, is 64"),
        (|f| _ = f.number("llama.attention.head_count", 3), "must divide embedding_length"),
        (|f| _ = f.number("llama.attention.head_count", 0), "must divide embedding_length"),
        (|f| _ = f.put("llama.attention.causal", 7, vec![0]), "must be true, is false"),
        (
            |f| {
                let values = [1u32, 2].iter().flat_map(|v| v.to_le_bytes()).collect();
                f.put("llama.attention.head_count_kv", 9, array(4, 2, values));
            },
            "must be the same for every layer",
        ),
        (|f| f.entries.retain(|(key, ..)| key != "llama.context_length"), "must be there"),
        (|f| _ = f.number("llama.block_count", 4_000_000_000), "num_hidden_layers must be"),
        (|f| _ = f.number("llama.block_count", 4000), "only 11 tensors"),
        (|f| _ = f.number("llama.block_count", 2), "`blk.1.attn_norm.weight`: the config asks"),
        (|f| _ = f.floats("blk.0.attn_sub_norm.weight", &[256], &[1.0; 256]), "no such tensor"),
        (|f| _ = f.floats("output_norm.weight", &[255], &[1.0; 255]), "must be [256], is [255]"),
        (|f| _ = f.floats("rope_freqs.weight", &[2], &[1.0, 8.0]), "stretches the rotary"),
        (|f| _ = f.floats("blk.0.attn_q.scale", &[2], &[1.0, 8.0]), "must be [1], is [2]"),
        (|f| _ = f.floats("blk.0.attn_q.scale", &[1], &[f32::NAN]), "must be a finite"),
        (|f| _ = f.tensor("blk.0.attn_q.scale", &[1], 1, vec![0, 0]), "must hold F32, holds F16"),
        (|f| _ = f.text("tokenizer.ggml.model", "rwkv"), "must be gpt2, llama or t5"),
        (|f| _ = f.text("tokenizer.ggml.pre", "tekken"), "`tokenizer.ggml.pre`: `tekken` is not"),
        (|f| f.entries.retain(|(key, ..)| key != "tokenizer.ggml.pre"), "pre`: must be there"),
        (|f| _ = f.number("tokenizer.ggml.suppress_tokens", 1), "suppress_tokens`: is not known"),
        (|f| _ = f.number("tokenizer.ggml.eos_token_id", 8), "eos_token_id`: must be below 8"),
    ];
    for (change, words) in cases {
        let mut file = good.clone();
        change(&mut file);
        let message = file.refused();
        assert!(message.contains(words), "lacks {words:?}: {message}");
    }
    // What changes nothing is let be.
    let mut file = good.clone();
    file.text("llama.rope.scaling.type", "none").number("llama.expert_count", 0);
    file.floats("rope_freqs.weight", &[2], &[1.0, 1.0]).number("other.logit_scale", 3);
    assert_eq!(file.import().unwrap(), good.import().unwrap());
}

#[test]
fn biases_of_llama_are_taken_along_and_permuted() {
    let mut file = wide(|_| 1.0);
    let bias: Vec<f32> = (0..256).map(|i| i as f32).collect();
    file.floats("blk.0.attn_q.bias", &[256], &bias);
    let model = file.import().unwrap().model;
    let Tensor::Float(bias) = &model.tensors["model.layers.0.self_attn.q_proj.bias"] else {
        panic!()
    };
    assert_eq!((bias.values()[1], bias.values()[64], bias.values()[128]), (2.0, 1.0, 128.0));
    let Tensor::Float(bias) = &model.tensors["model.layers.0.self_attn.o_proj.bias"] else {
        panic!()
    };
    assert_eq!(bias.values(), [0.0; 256]);
    assert!(!model.config().mlp_bias);
}

#[test]
fn vocabularies_that_lie_are_refused() {
    let good = wide(|_| 1.0);
    type Change = fn(&mut File);
    let cases: [(Change, &str); 8] = [
        (
            |f| _ = f.put("tokenizer.ggml.tokens", 9, array(8, 2, text("x").repeat(2))),
            "must have one for each of 2 tokens, has 8",
        ),
        (
            |f| {
                f.put("tokenizer.ggml.tokens", 9, array(8, 8, text("x").repeat(8)));
            },
            "tokens 0 and 1 are both `x`",
        ),
        (
            |f| _ = f.put("tokenizer.ggml.merges", 9, array(8, 1, text("a zebra"))),
            "tokenizer.json: ",
        ),
        (|f| _ = f.put("tokenizer.ggml.merges", 9, array(8, 1, text("ab"))), "merge 0 must be"),
        (|f| _ = f.put("tokenizer.ggml.merges", 9, array(4, 1, vec![0; 4])), "array of texts"),
        (|f| _ = f.put("tokenizer.ggml.tokens", 9, array(8, 0, vec![])), "array of texts, is 0"),
        (|f| _ = f.text("tokenizer.ggml.model", "llama"), "scores`: must be there"),
        (
            |f| {
                f.text("tokenizer.ggml.model", "t5");
                f.put("tokenizer.ggml.scores", 9, array(6, 7, f32s(&[0.0; 7])));
            },
            "must have one for each of 8 tokens, has 7",
        ),
    ];
    for (change, words) in cases {
        let mut file = good.clone();
        change(&mut file);
        let message = file.refused();
        assert!(message.contains(words), "lacks {words:?}: {message}");
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = written(&golden("bitnet_hf_packed"), "bitnet-b1.58", Store::I2S).build();
    for length in (0..bytes.len()).step_by(997) {
        assert!(gguf(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_vocabulary_of_scores_encodes_by_them() {
    let mut file = wide(|_| 1.0);
    let tokens = ["<unk>", "<s>", "</s>", "\u{2581}", "a", "b", "ab", "\u{2581}ab"];
    let kinds = [2i32, 3, 3, 1, 1, 1, 1, 1].iter().flat_map(|kind| kind.to_le_bytes()).collect();
    file.text("tokenizer.ggml.model", "llama");
    file.put(
        "tokenizer.ggml.tokens",
        9,
        array(8, 8, tokens.iter().flat_map(|t| text(t)).collect()),
    );
    file.put("tokenizer.ggml.token_type", 9, array(5, 8, kinds));
    let scores = [0.0, 0.0, 0.0, -9.0, -8.0, -7.0, -1.0, -2.0];
    file.put("tokenizer.ggml.scores", 9, array(6, 8, f32s(&scores)));
    file.number("tokenizer.ggml.bos_token_id", 1).number("tokenizer.ggml.eos_token_id", 2);
    let model = file.import().unwrap().model;
    let tokenizer = Tokenizer::from_source(&model.metadata.tokenizer).unwrap();
    assert_eq!(tokenizer.encode("abb a").unwrap(), [7, 5, 3, 4]);
    assert_eq!(tokenizer.decode(&[7, 5, 3, 4]).unwrap(), "abb a");
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    // The prefix is a choice.
    file.put("tokenizer.ggml.add_space_prefix", 7, vec![0]);
    let model = file.import().unwrap().model;
    let tokenizer = Tokenizer::from_source(&model.metadata.tokenizer).unwrap();
    assert_eq!(tokenizer.encode("abb a").unwrap(), [6, 5, 3, 4]);
    assert_eq!(model.metadata.bos, Some(1));
}

/// Widths that every ternary type can hold.
fn blocks(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        vocab_size: 512,
        hidden_size: 256,
        intermediate_size: 512,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: if architecture == Architecture::Gpt2 { 4 } else { 2 },
        head_dim: 64,
        max_position_embeddings: 300,
        ..ModelConfig::preset(architecture)
    }
}

#[test]
fn what_goes_out_as_gguf_comes_back() {
    use BlockType::{F32, I2_S, TQ1_0, TQ2_0};
    let stock = ModelConfig { hidden_act: HiddenAct::Silu, ..blocks(Architecture::Bitnet) };
    for (config, types) in [
        (blocks(Architecture::Bitlm), &[TQ2_0, TQ1_0][..]),
        (ModelConfig { tie_word_embeddings: false, ..blocks(Architecture::Bitlm) }, &[TQ2_0]),
        (blocks(Architecture::Gpt2), &[TQ2_0, TQ1_0]),
        (blocks(Architecture::Llama), &[F32]),
        (stock, &[TQ2_0, TQ1_0]),
        (blocks(Architecture::Bitnet), &[I2_S]),
    ] {
        let mut model = crate::reference::packed(&config, 3);
        let json = crate::import::tests::golden("tok_gpt2_bpe/tokenizer.json");
        model.metadata.tokenizer = TokenizerSource::Json(std::fs::read_to_string(json).unwrap());
        model.metadata.chat_template = Some("{{ messages }}".into());
        // There the scales stand in the blocks, which have sixteen bits for one.
        if config.architecture == Architecture::Gpt2 {
            for tensor in model.tensors.values_mut() {
                let Tensor::Ternary(ternary) = tensor else { continue };
                ternary.scale = FloatType::F16.round(ternary.scale);
            }
        }
        for &linear in types {
            let export = tern_format::gguf::export(&model, Some(linear)).unwrap();
            let mut bytes = Vec::new();
            export.layout.write_to(&mut bytes).unwrap();
            let Imported { model: again, notes, .. } = gguf(&bytes).unwrap();
            assert_eq!(notes, [""; 0]);
            for (name, tensor) in &model.tensors {
                assert!(
                    &again.tensors[name] == tensor,
                    "{:?} {linear:?}: {name}",
                    config.architecture
                );
            }
            assert_eq!(again.tensors.len(), model.tensors.len());
            let (found, expected) = (&again.metadata, &model.metadata);
            assert_eq!((found.bos, found.eos), (expected.bos, expected.eos));
            assert_eq!(found.chat_template, expected.chat_template);
            let [found, expected] = [found, expected].map(|metadata| {
                metadata
                    .read_tokenizer()
                    .unwrap()
                    .encode("Once upon\na time 12é<|endoftext|>")
                    .unwrap()
            });
            assert_eq!(found, expected);
        }
    }
}
