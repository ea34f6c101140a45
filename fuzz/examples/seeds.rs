//! Writes the seeds of every target: small valid files, so that a fuzzer begins behind the first checks.
//!
//! Run in this directory: `cargo run --release --example seeds`. The files are the same every time.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tern_format::config::{Architecture, ModelConfig};
use tern_format::packed::{
    Check, Encoding, FloatTensor, FloatType, Metadata, PackedModel, Provenance, Tensor,
    TernaryTensor,
};
use tern_format::protocol_buffer::{put_bytes, put_float, put_number};
use tern_format::s24::PATTERNS;
use tern_format::safetensors::write_f32;
use tern_format::tokenizer::TokenizerSource;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let put = |target: &str, name: &str, bytes: &[u8]| -> Result {
        let directory = corpus.join(target);
        fs::create_dir_all(&directory)?;
        Ok(fs::write(directory.join(format!("seed-{name}")), bytes)?)
    };

    for (name, value) in tokenizers() {
        put("tokenizer_json", name, value.to_string().as_bytes())?;
    }
    for (name, bytes) in sentence_pieces() {
        put("sentence_piece", name, &bytes)?;
    }

    let words = TokenizerSource::Json(tokenizers()[0].1.to_string());
    let pieces = TokenizerSource::SentencePiece(sentence_pieces().swap_remove(0).1);
    let (bitlm, llama) = (Architecture::Bitlm, Architecture::Llama);
    for (name, architecture, encoding, tokenizer, full) in [
        ("full", bitlm, Encoding::T2, &words, true),
        ("pieces", bitlm, Encoding::T2, &pieces, false),
        ("float", llama, Encoding::T2, &words, false),
        ("t5", bitlm, Encoding::T5, &words, false),
        ("s24", bitlm, Encoding::S24, &words, false),
        ("s24n", bitlm, Encoding::S24n, &words, false),
    ] {
        let bytes = model(architecture, encoding, tokenizer.clone(), full)?.to_bytes()?;
        put("packed_model", name, &bytes)?;
        if full {
            put("safetensors", name, &bytes)?;
        }
    }
    put("token_file", "bytes", &token_file(5, &[1, 3, 4, 2]))?;
    put("token_file", "pairs", &token_file(300, &[1, 299, 0, 2]))?;
    put("token_file", "words", &token_file(70_000, &[69_999, 3]))?;
    for (name, bytes) in ggufs() {
        put("gguf", name, &bytes)?;
    }
    for kind in ["gpt2", "llama", "t5"] {
        let mut file = GgufFile::default();
        file.tokenizer(kind);
        put("gguf_tokenizer", kind, &file.build())?;
    }
    for (name, text) in HUGGINGFACE {
        put("huggingface_config", name, text.as_bytes())?;
    }
    for (name, text) in CHAT_TEMPLATES {
        put("chat_template", name, text.as_bytes())?;
    }
    // Those of `tests/goldens/pytorch`, whose README says how they were made.
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/pytorch");
    for name in ["state_dict", "checkpoint"] {
        put("pytorch", name, &fs::read(goldens.join(name).with_extension("pt"))?)?;
    }
    put("config", "short", SHORT.as_bytes())?;
    put("config", "long", LONG.as_bytes())?;
    put("checkpoint", "state", state().to_string().as_bytes())?;
    let tensors_only = corpus.join("safetensors/seed-f32");
    let tensors = [("b", vec![2, 2], vec![1.0, -0.0, 1e-40, f32::MAX]), ("a", vec![], vec![0.1])];
    write_f32(
        &tensors_only,
        &tensors.map(|(name, shape, values)| (name.to_owned(), shape, values)),
        &[("key".to_owned(), "value".to_owned())].into(),
    )?;
    Ok(())
}

/// One block, with rows of 5 and of 2 inputs, so that padding occurs; or of whole groups of four, where the encoding asks
/// for them.
fn model(
    architecture: Architecture,
    encoding: Encoding,
    tokenizer: TokenizerSource,
    full: bool,
) -> Result<PackedModel> {
    let grouped = matches!(encoding, Encoding::S24 | Encoding::S24n);
    let config = ModelConfig {
        vocab_size: 16,
        hidden_size: 4,
        intermediate_size: if grouped { 8 } else { 5 },
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: if grouped { 4 } else { 2 },
        max_position_embeddings: 8,
        tie_word_embeddings: full,
        ..ModelConfig::preset(architecture)
    };
    let tensors = config.tensors().into_iter().map(|(name, shape)| {
        let count: usize = shape.iter().product();
        let tensor = if config.is_ternary_matrix(&name) {
            let trit = |i: usize| match grouped {
                true => PATTERNS[1 + i / 4 * 5 % 32][i % 4],
                false => (i * 5 % 7 % 3) as i8 - 1,
            };
            let trits: Vec<i8> = (0..count).map(trit).collect();
            Tensor::Ternary(TernaryTensor::from_trits(&trits, shape[1], 0.37))
        } else {
            let values: Vec<f32> = (0..count).map(|i| i as f32 * 0.1 - 0.3).collect();
            let dtype = match shape.len() {
                1 => FloatType::F32,
                _ if name.contains("mlp") => FloatType::BF16,
                _ => FloatType::F16,
            };
            Tensor::Float(FloatTensor::new(shape, dtype, &values))
        };
        (name, tensor)
    });
    let tensors = tensors.collect();
    let mut metadata = Metadata::new(config, tokenizer);
    if full {
        metadata.bos = Some(1);
        metadata.eos = Some(2);
        metadata.chat_template = Some("{{ messages }}".into());
        metadata.provenance = Some(Provenance {
            run: "tiny".into(),
            step: 10,
            tokens: 1000,
            data_identity: "00".repeat(32),
            data_licence: Some("CC0".into()),
            teacher_licence: None,
            commit: "abc".into(),
            val_loss: Some(1.75),
        });
        metadata.check = Some(Check { windows: vec![vec![1, 0, 2], vec![0, 0]], loss: 2.5 });
    }
    Ok(PackedModel { metadata, tensors }.encode_as(encoding)?)
}

/// One tokenizer for each model of the crate `tokenizers`, with every kind of part somewhere.
fn tokenizers() -> Vec<(&'static str, Value)> {
    let added = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let special = json!([added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")]);
    let words = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFKC"}, {"type": "Lowercase"},
            {"type": "Replace", "pattern": {"String": "\t"}, "content": " "}]},
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "<unk>",
            "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "once": 3, "a": 4, "time": 5}},
    });
    let bpe = json!({
        "version": "1.0", "added_tokens": special, "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|\\s+(?!\\S)|[a-z]+"},
                "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "Ġ": 5, "ab": 6, "Ġab": 7, "1": 8},
            "merges": ["a b", "Ġ ab"]},
    });
    let unigram = json!({
        "version": "1.0", "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Precompiled", "precompiled_charsmap": base64(&charsmap())}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false,
            "vocab": [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0], ["▁", -1.0], ["a", -1.5], ["▁a", -2.0]]},
    });
    let pieces = json!({
        "version": "1.0", "added_tokens": [added(0, "[UNK]")],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1, "##b": 2, "##c": 3, "once": 4}},
    });
    vec![("words", words), ("bpe", bpe), ("unigram", unigram), ("word-pieces", pieces)]
}

/// SentencePiece models of every type: a protocol buffer, see `sentencepiece_model.proto`.
fn sentence_pieces() -> Vec<(&'static str, Vec<u8>)> {
    let pieces = ["<unk>", "<s>", "</s>", "\u{2581}", "a", "b", "\u{2581}a", "ab", "time"];
    let model = |kind: u64, bytes: bool, normalizer: Vec<u8>| {
        let mut model = Vec::new();
        for (id, piece) in pieces.iter().enumerate() {
            let kind = [2, 3, 3].get(id).copied().unwrap_or(1);
            put_bytes(&mut model, 1, &piece_of(piece, -(id as f32), kind));
        }
        put_bytes(&mut model, 1, &piece_of("<user>", 0.0, 4));
        for byte in (0..=255u8).filter(|_| bytes) {
            put_bytes(&mut model, 1, &piece_of(&format!("<0x{byte:02X}>"), 0.0, 6));
        }
        let mut trainer = Vec::new();
        put_number(&mut trainer, 3, kind);
        put_number(&mut trainer, 35, u64::from(bytes));
        put_bytes(&mut model, 2, &trainer);
        put_bytes(&mut model, 3, &normalizer);
        model
    };
    let mut with_charsmap = Vec::new();
    put_bytes(&mut with_charsmap, 2, &charsmap());
    vec![
        ("unigram", model(1, false, Vec::new())),
        ("bpe", model(2, false, Vec::new())),
        ("word", model(3, false, Vec::new())),
        ("char", model(4, false, Vec::new())),
        ("bytes", model(1, true, Vec::new())),
        ("charsmap", model(1, false, with_charsmap)),
    ]
}

fn piece_of(text: &str, score: f32, kind: u64) -> Vec<u8> {
    let mut piece = Vec::new();
    put_bytes(&mut piece, 1, text.as_bytes());
    put_float(&mut piece, 2, score);
    put_number(&mut piece, 3, kind);
    piece
}

/// A GGUF file: keys with kind and value, tensors with sides (innermost first), type and bytes.
#[derive(Default)]
struct GgufFile {
    entries: Vec<Vec<u8>>,
    tensors: Vec<(Vec<u8>, Vec<u8>)>,
}

impl GgufFile {
    fn put(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.entries.push([&gguf_text(key)[..], &kind.to_le_bytes(), value].concat());
    }

    fn tensor(&mut self, name: &str, sides: &[u64], number: u32, data: Vec<u8>) {
        let sides_bytes: Vec<u8> = sides.iter().flat_map(|side| side.to_le_bytes()).collect();
        let count = (sides.len() as u32).to_le_bytes();
        let info = [&gguf_text(name)[..], &count, &sides_bytes, &number.to_le_bytes()].concat();
        self.tensors.push((info, data));
    }

    /// The keys of a tokenizer of six tokens.
    fn tokenizer(&mut self, kind: &str) {
        let key = |key: &str| format!("tokenizer.ggml.{key}");
        let tokens = ["<unk>", "<s>", "\u{2581}", "a", "b", "ab"];
        let texts: Vec<_> = tokens.iter().map(|token| gguf_text(token)).collect();
        let kinds = [2i32, 3, 1, 1, 1, 1].map(|kind| kind.to_le_bytes().to_vec());
        self.put(&key("model"), 8, &gguf_text(kind));
        self.put(&key("tokens"), 9, &gguf_array(8, &texts));
        self.put(&key("token_type"), 9, &gguf_array(5, &kinds));
        self.put(&key("bos_token_id"), 4, &1u32.to_le_bytes());
        if kind == "gpt2" {
            self.put(&key("pre"), 8, &gguf_text("llama-bpe"));
            self.put(&key("merges"), 9, &gguf_array(8, &[gguf_text("a b")]));
        } else {
            let scores: Vec<_> = (0..6).map(|id| (-(id as f32)).to_le_bytes().to_vec()).collect();
            self.put(&key("scores"), 9, &gguf_array(6, &scores));
        }
        if kind == "t5" {
            let bytes: Vec<_> = charsmap().iter().map(|&byte| vec![byte]).collect();
            self.put(&key("precompiled_charsmap"), 9, &gguf_array(0, &bytes));
        }
    }

    fn build(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        bytes.extend(self.entries.concat());
        let mut offset = 0u64;
        for (info, data) in &self.tensors {
            bytes.extend(info);
            bytes.extend(offset.to_le_bytes());
            offset = (offset + data.len() as u64).next_multiple_of(32);
        }
        for (_, data) in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
            bytes.extend(data);
        }
        bytes
    }
}

fn gguf_text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn gguf_array(kind: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(elements.len() as u64).to_le_bytes(), &elements.concat()].concat()
}

/// One model for each architecture and kind of linear layer, one block of a few channels; and a tensor of each type.
fn ggufs() -> Vec<(&'static str, Vec<u8>)> {
    let f32s = |count: usize| -> Vec<u8> {
        (0..count).flat_map(|i| (i as f32 * 0.1 - 0.3).to_le_bytes()).collect()
    };
    let model = |architecture: &str, tokenizer: &str, number: u32, d: usize| {
        let mut file = GgufFile::default();
        file.put("general.architecture", 8, &gguf_text(architecture));
        let gpt2 = architecture == "gpt2";
        for (key, value) in [
            ("context_length", 8),
            ("embedding_length", d),
            ("block_count", 1),
            ("feed_forward_length", d),
            ("attention.head_count", 1),
        ] {
            file.put(&format!("{architecture}.{key}"), 4, &(value as u32).to_le_bytes());
        }
        let rms = if gpt2 { "" } else { "rms_" };
        let epsilon = format!("{architecture}.attention.layer_norm_{rms}epsilon");
        file.put(&epsilon, 6, &1e-5f32.to_le_bytes());
        file.tokenizer(tokenizer);
        let mut vector = |name: &str, size: usize| {
            file.tensor(name, &[size as u64], 0, f32s(size));
        };
        let norms = if architecture == "bitnet" { 4 } else { 2 };
        for end in ["weight", "bias"].iter().take(if gpt2 { 2 } else { 1 }) {
            vector(&format!("output_norm.{end}"), d);
            for norm in ["attn", "ffn", "attn_sub", "ffn_sub"].iter().take(norms) {
                vector(&format!("blk.0.{norm}_norm.{end}"), d);
            }
        }
        for (name, size) in
            [("attn_qkv", 3 * d), ("attn_output", d), ("ffn_up", d), ("ffn_down", d)]
                .iter()
                .filter(|_| gpt2)
        {
            vector(&format!("blk.0.{name}.bias"), *size);
        }
        let linear = |count: usize| match number {
            0 => f32s(count),
            8 => [[0, 0x38].as_slice(), &[3; 32]].concat().repeat(count / 32),
            _ => [vec![0x92; count / 4], [0, 0, 0, 0x3f].to_vec(), vec![0; 28]].concat(),
        };
        let (side, fused) = (d as u64, 3 * d as u64);
        if gpt2 {
            file.tensor("position_embd.weight", &[side, 8], 0, f32s(8 * d));
            file.tensor("blk.0.attn_qkv.weight", &[side, fused], number, linear(3 * d * d));
        }
        for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
        {
            if !gpt2 || ["attn_output", "ffn_up", "ffn_down"].contains(&name) {
                file.tensor(&format!("blk.0.{name}.weight"), &[side, side], number, linear(d * d));
            }
        }
        file.tensor("token_embd.weight", &[side, 6], 0, f32s(6 * d));
        file.build()
    };
    let mut types = GgufFile::default();
    for (number, bytes) in [
        (0, 1024),
        (1, 512),
        (2, 144),
        (8, 272),
        (14, 210),
        (30, 512),
        (34, 54),
        (35, 66),
        (36, 96),
    ] {
        types.tensor(&format!("type {number}"), &[256], number, vec![0; bytes]);
    }
    vec![
        ("llama", model("llama", "llama", 0, 4)),
        ("gpt2", model("gpt2", "llama", 0, 4)),
        ("bitnet", model("bitnet", "t5", 36, 16)),
        ("blocks", model("llama", "llama", 8, 32)),
        ("types", types.build()),
    ]
}

/// One `config.json` for each kind of model.
const HUGGINGFACE: [(&str, &str); 3] = [
    (
        "llama",
        r#"{"model_type": "llama", "vocab_size": 160, "hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "bos_token_id": 1, "eos_token_id": [2, 3], "tie_word_embeddings": false, "torch_dtype": "bfloat16"}"#,
    ),
    (
        "bitnet",
        r#"{"model_type": "bitnet", "vocab_size": 160, "hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 6, "max_position_embeddings": 64, "hidden_act": "relu2", "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}}"#,
    ),
    (
        "gpt2",
        r#"{"model_type": "gpt2", "vocab_size": 160, "n_embd": 48, "n_head": 6, "n_layer": 2, "n_positions": 64, "n_inner": null, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": true}"#,
    ),
];

/// Messages in turn, an empty line, and a template.
const CHAT_TEMPLATES: [(&str, &str); 3] = [
    (
        "turns",
        "Hello</s>\nHi\n1 < 2\n\n{% for m in messages %}{{ bos_token + m['role'] + '\\n' + m.content | trim + eos_token }}{% endfor %}\
        {% if add_generation_prompt %}{{ bos_token }}assistant{% endif %}",
    ),
    (
        "namespace",
        "Hello\n\n{%- set ns = namespace(last=-1) -%}\n{%- for m in messages[::-1] %}{% if loop.first or m.role == 'user' %}\
        {% set ns.last = loop.index0 %}{% continue %}{% endif %}{{ m | tojson(indent=2) }}{% endfor %}{{ ns.last }}",
    ),
    (
        "macro",
        "a\nb\n\n{% macro turn(role, text='') %}<s>{{ role.upper() }}{% generation %}{{ text.split('x')[0] }}{% endgeneration %}</s>{% endmacro %}\
        {% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ strftime_now('%d %b %Y') }}\
        {% for m in messages %}{{ turn(m.role, text=m.content) }}{% endfor %}",
    ),
];

/// A token file with BOS and EOS, as `datasets/src/token_file.rs` describes it.
fn token_file(vocab_size: u32, ids: &[u32]) -> Vec<u8> {
    let width = if vocab_size <= 0x100 {
        1
    } else if vocab_size <= 0x1_0000 {
        2
    } else {
        4
    };
    let mut bytes = b"TERNTOK\0".to_vec();
    bytes.extend([1, width as u32, vocab_size, 1, 2, 0].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend([ids.len() as u64, 1, 20].into_iter().flat_map(u64::to_le_bytes));
    bytes.extend([7; 32]);
    bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(width)));
    bytes
}

/// The fewest keys.
const SHORT: &str = r#"
[model]
architecture = "bitlm"
[data]
train = ["a.txt"]
seq_len = 64
micro_batch = 2
tokenizer = { train = "bpe", vocab_size = 300 }
"#;

/// Keys of every table.
const LONG: &str = r#"
seed = 7
[model]
architecture = "llama"
hidden_size = 32
num_attention_heads = 4
num_key_value_heads = 2
rope_theta = 1e4
[data]
corpus = "stories"
train_stories = 100
valid_stories = 10
windows = "documents"
separator = "blank_line"
seq_len = 32
micro_batch = 4
[data.tokenizer]
train = "unigram"
vocab_size = 300
byte_fallback = false
[train]
steps = 10
grad_accum = 2
clip_norm = 0.5
[train.optimizer]
kind = "adamw"
learning_rate = 1.5e-3
betas = [0.9, 0.95]
decay = "matrices"
[train.schedule]
kind = "constant"
warmup_steps = 3
[generate]
temperature = 0.7
prompt = "Once"
[samples]
every = 5
prompts = ["", "a"]
"#;

/// The state of a checkpoint after four steps.
fn state() -> Value {
    json!({
        "format_version": 2, "step": 4, "tokens": 512, "seed": 7,
        "config_sha256": "00".repeat(32), "data_identity": "11".repeat(32),
        "val_loss": 2.5, "best": {"step": 3, "val_loss": 2.25},
        "guard": {"skipped": 1, "skipped_in_row": 0, "count": 3, "mean": 2.75, "variance": 0.125},
        "files": {"model.safetensors": "22".repeat(32), "optimizer.safetensors": "33".repeat(32)},
    })
}

/// A table of normalization with one rule, `A` to `aa`: the length of a double-array trie, the trie, the texts.
fn charsmap() -> Vec<u8> {
    let mut units = [0u32; 256];
    units[0] = 1 << 10; // the root: its children are at 1 ^ label
    units[1 ^ 65] = 65 | 1 << 8 | (64 ^ 200) << 10; // `A`, a leaf: its value is at 200
    units[200] = 1 << 31; // text 0
    let mut bytes = 1024u32.to_le_bytes().to_vec();
    bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes.extend(b"aa\0");
    bytes
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, i| bits << 8 | u32::from(*chunk.get(i).unwrap_or(&0)));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
