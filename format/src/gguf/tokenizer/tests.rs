//! Tokenizers through the metadata of GGUF files, against what the reference implementations gave.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::super::tests::{entry, file, string};
use super::*;
use crate::protocol_buffer;
use crate::tokenizer::Tokenizer;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens").join(name)
}

fn read(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn array(kind: u32, elements: Vec<Vec<u8>>) -> Vec<u8> {
    let len = elements.len() as u64;
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), &elements.concat()].concat()
}

fn strings<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<u8> {
    array(8, texts.map(|text| string(text.as_bytes())).collect())
}

/// A file without tensors of interest: entries under `tokenizer.ggml.`.
fn with(entries: &[(&str, u32, Vec<u8>)]) -> Vec<u8> {
    let mut file = file();
    for (key, kind, value) in entries {
        file.entries.push(entry(&format!("tokenizer.ggml.{key}"), *kind, value));
    }
    file.build()
}

fn parts(bytes: &[u8]) -> Result<TokenizerParts> {
    TokenizerParts::new(&Gguf::parse(bytes)?)
}

/// What llama.cpp's converter makes of a `tokenizer.json` of byte-level BPE.
fn byte_level(json: &Json, pre: &str) -> Vec<u8> {
    let mut tokens: Vec<(u64, &str)> = json["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (id.as_u64().unwrap(), token.as_str()))
        .collect();
    let added = json["added_tokens"].as_array().unwrap();
    let mut kinds = std::collections::HashMap::new();
    for token in added {
        let (id, content) = (token["id"].as_u64().unwrap(), token["content"].as_str().unwrap());
        kinds.insert(id, if token["special"] == true { 3i32 } else { 4 });
        if !tokens.iter().any(|(other, _)| *other == id) {
            tokens.push((id, content));
        }
    }
    tokens.sort_unstable();
    assert!(tokens.iter().enumerate().all(|(i, (id, _))| i as u64 == *id));
    let merges: Vec<String> = json["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|merge| match merge {
            Json::String(merge) => merge.clone(),
            pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        })
        .collect();
    let kind = |id: &u64| kinds.get(id).unwrap_or(&1).to_le_bytes().to_vec();
    with(&[
        ("model", 8, string(b"gpt2")),
        ("pre", 8, string(pre.as_bytes())),
        ("tokens", 9, strings(tokens.iter().map(|(_, token)| *token))),
        ("token_type", 9, array(5, tokens.iter().map(|(id, _)| kind(id)).collect())),
        ("merges", 9, strings(merges.iter().map(String::as_str))),
    ])
}

/// What the converter makes of a SentencePiece model: `llama` or `t5`.
fn pieces(model: &[u8], name: &str) -> Vec<u8> {
    let (mut tokens, mut scores, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    let (mut charsmap, mut prefix, mut removes) = (Vec::new(), 1, 1);
    for field in protocol_buffer::fields(model) {
        let (number, protocol_buffer::Value::Bytes(message)) = field.unwrap() else { continue };
        match number {
            1 => {
                let (mut text, mut score, mut kind) = (Vec::new(), 0f32, 1i32);
                let mut rest = message;
                // Tag, then a text of a byte's length, a float, or a small number.
                while let Some((&tag, after)) = rest.split_first() {
                    let taken = match tag {
                        0x0a => {
                            text = after[1..][..after[0] as usize].to_vec();
                            1 + text.len()
                        }
                        0x15 => {
                            score = f32::from_le_bytes(*after.first_chunk().unwrap());
                            4
                        }
                        0x18 => {
                            kind = after[0].into();
                            1
                        }
                        other => panic!("{other}"),
                    };
                    rest = &after[taken..];
                }
                tokens.push(String::from_utf8(text).unwrap());
                scores.push(score.to_le_bytes().to_vec());
                kinds.push(kind.to_le_bytes().to_vec());
            }
            3 => {
                for field in protocol_buffer::fields(message) {
                    if let (2, protocol_buffer::Value::Bytes(table)) = field.unwrap() {
                        charsmap = table.to_vec();
                    }
                }
                // A field of a byte after its tag; the table and the name come before.
                let flag = |tag: u8| {
                    let tail = &message[message.len().saturating_sub(8)..];
                    tail.chunks(2).find(|pair| pair[0] == tag).map(|pair| pair[1])
                };
                prefix = flag(0x18).unwrap_or(1);
                removes = flag(0x20).unwrap_or(1);
            }
            _ => {}
        }
    }
    with(&[
        ("model", 8, string(name.as_bytes())),
        ("tokens", 9, strings(tokens.iter().map(String::as_str))),
        ("scores", 9, array(6, scores)),
        ("token_type", 9, array(5, kinds)),
        ("precompiled_charsmap", 9, array(0, charsmap.iter().map(|&byte| vec![byte]).collect())),
        ("add_space_prefix", 7, vec![prefix]),
        ("remove_extra_whitespaces", 7, vec![removes]),
        ("bos_token_id", 4, 1u32.to_le_bytes().to_vec()),
        ("eos_token_id", 4, 2u32.to_le_bytes().to_vec()),
        ("unknown_token_id", 4, 0u32.to_le_bytes().to_vec()),
    ])
}

fn tokenizer(bytes: &[u8]) -> Tokenizer {
    Tokenizer::from_source(&parts(bytes).unwrap().tokenizer).unwrap()
}

fn ids(value: &Json) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn byte_level_bpe_agrees_with_every_line_of_its_goldens() {
    for (name, pre) in
        [("tok_gpt2_bpe", "gpt-2"), ("tok_smollm_bpe", "smollm"), ("tok_llama3_bpe", "llama-bpe")]
    {
        let tokenizer = tokenizer(&byte_level(&read(&golden(name).join("tokenizer.json")), pre));
        let samples = read(&golden(name).join("samples.json"));
        let samples = samples.as_array().unwrap();
        assert!(samples.len() >= 39);
        for sample in samples {
            let text = sample["text"].as_str().unwrap();
            let expected = ids(&sample["ids"]);
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{name} {text:?}");
            let decoded = sample["decoded_skip"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&expected).unwrap(), decoded, "{name}");
            let literal = tokenizer.encode_literally(text).unwrap();
            assert_eq!(tokenizer.decode(&literal).unwrap(), text, "{name}");
        }
    }
}

#[test]
fn unigram_agrees_with_every_line_of_its_goldens() {
    for name in ["plain", "bytefallback"] {
        let model = std::fs::read(golden(&format!("tok_spm_unigram/{name}.model"))).unwrap();
        let bytes = pieces(&model, "t5");
        let parts = parts(&bytes).unwrap();
        // A `t5` begins documents with nothing, unless the file says so.
        assert_eq!((parts.bos, parts.add_bos, parts.eos), (Some(1), false, Some(2)));
        let tokenizer = Tokenizer::from_source(&parts.tokenizer).unwrap();
        let special = (tokenizer.unk(), tokenizer.bos(), tokenizer.eos());
        assert_eq!(special, (Some(0), Some(1), Some(2)));
        let golden = read(&golden(&format!("tok_spm_unigram/{name}.json")));
        let samples = golden["samples"].as_array().unwrap();
        assert_eq!(samples.len(), 39);
        for sample in samples {
            let text = sample["text"].as_str().unwrap();
            let expected = ids(&sample["ids"]);
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{name} {text:?}");
            let decoded = sample["decoded"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&ids(&sample["ids_bos_eos"])).unwrap(), decoded);
        }
    }
}

/// The vocabularies that `TERN_DATA` holds, before and after; GPT-2's also against llama.cpp's own ids.
#[test]
fn published_vocabularies_are_the_same_by_way_of_gguf() {
    let Some(data) = std::env::var_os("TERN_DATA").map(PathBuf::from) else {
        println!("skipped: TERN_DATA is not set");
        return;
    };
    let directory = data.join("tokenizers");
    let stories = std::fs::read_to_string(data.join("tinystories/valid.txt")).unwrap();
    let vectors = directory.join("vectors/ggml-vocab-gpt-2.gguf");
    let texts = std::fs::read_to_string(vectors.with_extension("gguf.inp")).unwrap();
    let mut texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let expected = std::fs::read_to_string(vectors.with_extension("gguf.out")).unwrap();
    let line = |line: &str| line.split_whitespace().map(|id| id.parse().unwrap()).collect();
    let expected: Vec<Vec<u32>> = expected.lines().map(line).collect();
    for (name, pre) in [("gpt2", "gpt-2"), ("smollm", "smollm")] {
        let path = directory.join(name).join("tokenizer.json");
        let ours = tokenizer(&byte_level(&read(&path), pre));
        let theirs = Tokenizer::from_file(&path).unwrap();
        for text in texts.iter().chain([&&stories[..50_000]]) {
            assert_eq!(ours.encode(text).unwrap(), theirs.encode(text).unwrap(), "{name} {text:?}");
        }
        for (text, expected) in texts.iter().zip(&expected).filter(|_| name == "gpt2") {
            assert_eq!(&ours.encode(text).unwrap(), expected, "{text:?}");
        }
    }
    texts.push(&stories[..50_000]);
    for (name, kind) in [("spm192/spm192", "t5"), ("tok512/tokenizer", "llama")] {
        let path = directory.join(format!("{name}.model"));
        let ours = tokenizer(&pieces(&std::fs::read(&path).unwrap(), kind));
        let theirs = Tokenizer::from_file(&path).unwrap();
        for text in &texts {
            let ids = ours.encode(text).unwrap();
            assert_eq!(ids, theirs.encode(text).unwrap(), "{name} {text:?}");
            assert_eq!(ours.decode(&ids).unwrap(), theirs.decode(&ids).unwrap());
        }
    }
}

#[test]
fn llama_cpp_cuts_words_the_same_way() {
    // Every byte is a token, and no merge: the cuts do not show. So each way has words of its own to be taken whole.
    let cases: [(&str, &str, &[&str]); 6] = [
        ("gpt-2", "it's 1234!! a", &["it", "'s", "Ġ1234", "!!", "Ġa"]),
        ("smollm", "it's 1234!! a", &["it", "'s", "Ġ", "1", "2", "3", "4", "!!", "Ġa"]),
        ("llama-bpe", "IT'S 1234!! a", &["IT", "'S", "Ġ", "123", "4", "!!", "Ġa"]),
        ("qwen2", "it's 1234!! a", &["it", "'s", "Ġ", "1", "2", "3", "4", "!!", "Ġa"]),
        ("falcon", "it's 1234!! a", &["it", "'", "s", "Ġ", "123", "4", "!!", "Ġa"]),
        ("default", "it's 1234!! a", &["it", "'", "s", "Ġ", "123", "4", "!!", "Ġa"]),
    ];
    for (pre, text, words) in cases {
        let pre_tokenizer = pre_tokenizer(pre).unwrap();
        let parts: Vec<_> = pre_tokenizer
            .patterns
            .iter()
            .map(|pattern| serde_json::json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}))
            .chain([serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})])
            .collect();
        let vocab: serde_json::Map<_, _> = std::iter::once("?")
            .chain(words.iter().copied())
            .scan(std::collections::BTreeSet::new(), |seen, word| {
                Some(seen.insert(word).then_some(word))
            })
            .flatten()
            .enumerate()
            .map(|(id, word)| (word.to_owned(), id.into()))
            .collect();
        let json = serde_json::json!({"version": "1.0", "added_tokens": [],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts},
            "model": {"type": "WordLevel", "unk_token": "?", "vocab": vocab}});
        let tokenizer = Tokenizer::from_source(&TokenizerSource::Json(json.to_string())).unwrap();
        let found: Vec<_> = tokenizer
            .encode(text)
            .unwrap()
            .iter()
            .map(|&id| tokenizer.token(id).unwrap())
            .collect();
        assert_eq!(found, words, "{pre}");
    }
}
