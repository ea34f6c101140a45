//! Tokenizers against what the reference implementations gave: the `sentencepiece` and
//! `tokenizers` Python packages (goldens), and llama.cpp's published vectors.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use tern_format::stream::TextStream;
use tern_format::tokenizer::{Tokenizer, TokenizerSource};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// What a stream gives, piece by piece, is what decoding gives at once.
fn check_stream(tokenizer: &Tokenizer, ids: &[u32], decoded: &str) {
    let mut stream = TextStream::new(tokenizer);
    let mut text = String::new();
    for id in ids {
        let piece = stream.push(*id).unwrap();
        text.push_str(&piece);
        assert!(decoded.starts_with(&text), "{text:?} does not begin {decoded:?}");
    }
    text.push_str(&stream.finish().unwrap());
    assert_eq!(text, decoded);
}

#[test]
fn sentencepiece_agrees_on_every_line() {
    for name in ["plain", "bytefallback"] {
        let tokenizer =
            Tokenizer::from_file(&golden(&format!("tok_spm_unigram/{name}.model"))).unwrap();
        assert!(matches!(tokenizer.source(), TokenizerSource::SentencePiece(_)));
        let golden = read(&golden(&format!("tok_spm_unigram/{name}.json")));
        assert_eq!(tokenizer.vocab_size() as u64, golden["vocab_size"].as_u64().unwrap());
        assert_eq!(
            (tokenizer.unk(), tokenizer.bos(), tokenizer.eos()),
            (Some(0), Some(1), Some(2))
        );
        for (id, piece) in golden["pieces"].as_array().unwrap().iter().enumerate() {
            assert_eq!(tokenizer.token(id as u32).as_deref(), piece[0].as_str());
        }
        let samples = golden["samples"].as_array().unwrap();
        assert_eq!(samples.len(), 39);
        for sample in samples {
            let text = sample["text"].as_str().unwrap();
            let expected = ids(&sample["ids"]);
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{name} {text:?}");
            assert_eq!(tokenizer.encode_literally(text).unwrap(), expected);
            let decoded = sample["decoded"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&expected).unwrap(), decoded);
            // Control ids are skipped.
            let delimited = ids(&sample["ids_bos_eos"]);
            assert_eq!(tokenizer.decode(&delimited).unwrap(), decoded);
            check_stream(&tokenizer, &delimited, decoded);
        }
    }
}

#[test]
fn tokenizer_json_agrees_on_every_line() {
    for name in ["tok_smollm_bpe", "tok_gpt2_bpe", "tok_llama3_bpe"] {
        let tokenizer = Tokenizer::from_file(&golden(name).join("tokenizer.json")).unwrap();
        let samples = read(&golden(name).join("samples.json"));
        let samples = samples.as_array().unwrap();
        assert!(samples.len() >= 39, "{}", samples.len());
        for sample in samples {
            let text = sample["text"].as_str().unwrap();
            let expected = ids(&sample["ids"]);
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{name} {text:?}");
            let decoded = sample["decoded_skip"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&expected).unwrap(), decoded);
            check_stream(&tokenizer, &expected, decoded);
            assert_eq!(tokenizer.decode(&ids(&sample["ids_special"])).unwrap(), decoded);
            let tokens: Vec<_> = expected.iter().map(|id| tokenizer.token(*id).unwrap()).collect();
            let named: Vec<_> = sample["tokens"]
                .as_array()
                .unwrap()
                .iter()
                .map(|token| token.as_str().unwrap())
                .collect();
            assert_eq!(tokens, named);
            // Read literally, nothing is special and so nothing is lost.
            let literal = tokenizer.encode_literally(text).unwrap();
            assert_eq!(tokenizer.decode(&literal).unwrap(), text, "{name}");
        }
    }
    let delimiters = |name| {
        let tokenizer = Tokenizer::from_file(&golden(name).join("tokenizer.json")).unwrap();
        [tokenizer.bos(), tokenizer.eos()].map(|id| tokenizer.token(id.unwrap()).unwrap())
    };
    assert_eq!(delimiters("tok_gpt2_bpe"), ["<|endoftext|>", "<|endoftext|>"]);
    assert_eq!(delimiters("tok_llama3_bpe"), ["<|begin_of_text|>", "<|end_of_text|>"]);
    assert_eq!(delimiters("tok_smollm_bpe"), ["<|endoftext|>", "<|im_end|>"]);
}

/// llama.cpp's texts and ids, for the public vocabularies that `TERN_DATA` holds.
#[test]
fn the_vectors_of_llama_cpp_agree() {
    let Some(data) = std::env::var_os("TERN_DATA").map(PathBuf::from) else {
        println!("skipped: TERN_DATA is not set");
        return;
    };
    let directory = data.join("tokenizers");
    let file = directory.join("gpt2/tokenizer.json");
    if !file.exists() {
        println!("skipped: {} is not there", file.display());
        return;
    }
    let tokenizer = Tokenizer::from_file(&file).unwrap();
    let texts =
        std::fs::read_to_string(directory.join("vectors/ggml-vocab-gpt-2.gguf.inp")).unwrap();
    let expected =
        std::fs::read_to_string(directory.join("vectors/ggml-vocab-gpt-2.gguf.out")).unwrap();
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let expected: Vec<&str> = expected.lines().collect();
    assert!(
        expected.len() >= 40 && texts.len() >= expected.len(),
        "{} {}",
        texts.len(),
        expected.len()
    );
    for (text, line) in texts.iter().zip(expected) {
        let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text:?}");
        assert_eq!(&tokenizer.decode(&expected).unwrap(), text);
    }
}

#[test]
fn a_long_bpe_text_takes_no_quadratic_time() {
    let Some(data) = std::env::var_os("TERN_DATA").map(PathBuf::from) else {
        println!("skipped: TERN_DATA is not set");
        return;
    };
    let tokenizer = Tokenizer::from_file(&data.join("tokenizers/tok512/tokenizer.model")).unwrap();
    let text = std::fs::read_to_string(data.join("tinystories/valid.txt")).unwrap();
    let start = std::time::Instant::now();
    let ids = tokenizer.encode(&text).unwrap();
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
}

#[test]
fn files_that_are_no_tokenizer_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokenizer.model");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = Tokenizer::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("tokenizer.model: "), "{error}");
        error
    };
    assert!(refused(b" \n").contains("the file is empty"));
    assert!(refused(b"IQ== 0\nIg== 1\n").contains("rank file of tiktoken"));
    assert!(refused(b"{\"version\": ").contains("tokenizer.json: EOF"));
    assert!(refused(b"{\"a\": \"\xff\"}").contains("tokenizer.json: invalid utf-8"));
    assert!(refused(b"GGUF, say").contains("SentencePiece model: "));
    let model = std::fs::read(golden("tok_spm_unigram/plain.model")).unwrap();
    assert!(refused(&model[..100]).contains("SentencePiece model: "));
    let json = std::fs::read_to_string(golden("tok_gpt2_bpe/tokenizer.json")).unwrap();
    assert!(refused(&json.as_bytes()[..json.len() / 2]).contains("tokenizer.json: "));
    let hole = json.replacen("\"<|endoftext|>\": 0", "\"<|endoftext|>\": 4294967295", 1);
    assert_ne!(hole, json);
    assert!(refused(hole.as_bytes()).contains("ids reach 4294967295, in a file of only"));
    let missing = Tokenizer::from_file(&directory.path().join("none")).unwrap_err().to_string();
    assert!(missing.contains("none: "), "{missing}");
}

#[test]
fn ids_outside_the_vocabulary_are_refused() {
    for name in ["tok_spm_unigram/plain.model", "tok_gpt2_bpe/tokenizer.json"] {
        let tokenizer = Tokenizer::from_file(&golden(name)).unwrap();
        let size = tokenizer.vocab_size();
        let error = tokenizer.decode(&[0, size as u32]).unwrap_err().to_string();
        assert_eq!(error, format!("token id {size} is outside the vocabulary of {size}"));
        let mut stream = TextStream::new(&tokenizer);
        assert!(stream.push(size as u32).is_err());
        assert_eq!(stream.push(10).unwrap(), tokenizer.decode(&[10]).unwrap());
    }
}

/// Damaged files give an error or a tokenizer, never a panic.
#[test]
fn damaged_files_do_not_panic() {
    for name in [
        "tok_spm_unigram/plain.model",
        "tok_spm_unigram/bytefallback.model",
        "tok_llama3_bpe/tokenizer.json",
    ] {
        let bytes = std::fs::read(golden(name)).unwrap();
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for round in 0..200 {
            let mut bytes = bytes.clone();
            // Half of the damage where most of the structure is: in the first kilobytes.
            let reach = if round % 2 == 0 { bytes.len() } else { bytes.len().min(4000) };
            for _ in 0..1 + random(4) {
                bytes[random(reach)] = random(256) as u8;
            }
            if round % 3 == 0 {
                bytes.truncate(random(reach));
            }
            let tokenizer = TokenizerSource::from_bytes(bytes)
                .and_then(|source| Tokenizer::from_source(&source));
            let Ok(tokenizer) = tokenizer else { continue };
            if let Ok(ids) = tokenizer.encode("Once upon a time, 7 naïve foxes \u{1F98A} ran.\n") {
                let _ = tokenizer.decode(&ids);
            }
        }
    }
}

/// Invalid and split characters come out as the decoder would have them, once they are certain.
#[test]
fn streams_hold_back_what_may_still_change() {
    let tokenizer = Tokenizer::from_file(&golden("tok_gpt2_bpe/tokenizer.json")).unwrap();
    let text = "a 🦊 naïve – fox";
    let ids = tokenizer.encode(text).unwrap();
    check_stream(&tokenizer, &ids, text);
    let mut stream = TextStream::new(&tokenizer);
    for id in &ids {
        assert!(!stream.push(*id).unwrap().contains('\u{fffd}'));
    }
    // A fox without its last byte, then a letter; and many ids that are no characters at all.
    let fox = tokenizer.encode("🦊").unwrap();
    let torn = [&fox[..fox.len() - 1], &tokenizer.encode("a").unwrap()].concat();
    check_stream(&tokenizer, &torn, &tokenizer.decode(&torn).unwrap());
    let garbage = [fox[fox.len() - 1]; 40];
    check_stream(&tokenizer, &garbage, &tokenizer.decode(&garbage).unwrap());
    check_stream(&tokenizer, &[], "");
}
