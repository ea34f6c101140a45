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
    Check, FloatTensor, FloatType, Metadata, PackedModel, Provenance, Tensor, TernaryTensor,
};
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
    for (name, architecture, tokenizer, full) in [
        ("full", Architecture::Bitlm, words.clone(), true),
        ("pieces", Architecture::Bitlm, pieces, false),
        ("float", Architecture::Llama, words, false),
    ] {
        let bytes = model(architecture, tokenizer, full).to_bytes()?;
        put("packed_model", name, &bytes)?;
        if full {
            put("safetensors", name, &bytes)?;
        }
    }
    put("token_file", "bytes", &token_file(5, &[1, 3, 4, 2]))?;
    put("token_file", "pairs", &token_file(300, &[1, 299, 0, 2]))?;
    put("token_file", "words", &token_file(70_000, &[69_999, 3]))?;
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

/// One block, with rows of 5 and of 2 inputs, so that padding occurs.
fn model(architecture: Architecture, tokenizer: TokenizerSource, full: bool) -> PackedModel {
    let config = ModelConfig {
        vocab_size: 16,
        hidden_size: 4,
        intermediate_size: 5,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 2,
        max_position_embeddings: 8,
        tie_word_embeddings: full,
        ..ModelConfig::preset(architecture)
    };
    let tensors = config.tensors().into_iter().map(|(name, shape)| {
        let count: usize = shape.iter().product();
        let tensor = if config.is_ternary_matrix(&name) {
            let trits: Vec<i8> = (0..count).map(|i| (i * 5 % 7 % 3) as i8 - 1).collect();
            Tensor::Ternary(TernaryTensor::from_trits(&trits, shape[1], 0.37))
        } else {
            let values = (0..count).map(|i| i as f32 * 0.1 - 0.3).collect();
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
    PackedModel { metadata, tensors }
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
            field(&mut model, 1, &piece_of(piece, -(id as f32), kind));
        }
        field(&mut model, 1, &piece_of("<user>", 0.0, 4));
        for byte in (0..=255u8).filter(|_| bytes) {
            field(&mut model, 1, &piece_of(&format!("<0x{byte:02X}>"), 0.0, 6));
        }
        let mut trainer = Vec::new();
        number(&mut trainer, 3, kind);
        number(&mut trainer, 35, u64::from(bytes));
        field(&mut model, 2, &trainer);
        field(&mut model, 3, &normalizer);
        model
    };
    let mut with_charsmap = Vec::new();
    field(&mut with_charsmap, 2, &charsmap());
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
    field(&mut piece, 1, text.as_bytes());
    piece.push(2 << 3 | 5);
    piece.extend(score.to_le_bytes());
    number(&mut piece, 3, kind);
    piece
}

/// A field of bytes.
fn field(message: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    varint(message, number << 3 | 2);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

/// A field that is a number.
fn number(message: &mut Vec<u8>, number: u64, value: u64) {
    varint(message, number << 3);
    varint(message, value);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// A token file with BOS and EOS, as `datasets/src/token_file.rs` describes it.
fn token_file(vocab_size: u32, ids: &[u32]) -> Vec<u8> {
    let width = if vocab_size <= 0x100 { 1 } else if vocab_size <= 0x1_0000 { 2 } else { 4 };
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
