//! A tokenizer as the metadata of a GGUF file, in the three kinds that llama.cpp has for those that Tern knows.
//!
//! ```text
//! gpt2    BPE over bytes: tokens, merges, and `pre`, the name of what cuts a text into words
//! t5      unigram: tokens, scores, and the precompiled table that normalizes a text
//! llama   SentencePiece's BPE: tokens and scores
//! ```
//!
//! What llama.cpp would read as other ids is refused: its tokenizers have no part for it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::pre_tokenizer::{LLAMA3, QWEN2};
use super::write::Entry;
use crate::error::{Error, Result, quoted};
use crate::packed::Metadata;
use crate::sentence_piece_model::{Algorithm, Kind, Model, Piece};
use crate::tokenizer::TokenizerSource;

/// The score of an id that no text has.
const UNUSED_SCORE: f32 = -10_000.0;

/// How SentencePiece writes a space.
const SPACE: &str = "\u{2581}";

/// What GGUF says of a tokenizer, but for the ids of special tokens.
struct Vocabulary {
    kind: &'static str,
    pre: &'static str,
    /// By id.
    pieces: Vec<Piece>,
    merges: Option<Vec<String>>,
    charsmap: Vec<u8>,
    space_prefix: bool,
    /// Whether runs of spaces are one; said for `t5` alone.
    merge_spaces: bool,
}

/// The entries of a model's tokenizer, its special ids and its chat template.
///
/// # Errors
///
/// [`Error::Metadata`] of `tokenizer` with the part that llama.cpp lacks, or of `eos_token_id`.
pub(super) fn entries(metadata: &Metadata) -> Result<Vec<(String, Entry)>> {
    let refuse = |rule: String| Error::Metadata { key: "tokenizer".into(), rule };
    metadata.read_tokenizer()?;
    let mut vocabulary = match &metadata.tokenizer {
        TokenizerSource::Json(text) => {
            let json = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
            tokenizer_json(&json).map_err(refuse)?
        }
        TokenizerSource::SentencePiece(bytes) => {
            sentence_piece(Model::parse(bytes).map_err(refuse)?).map_err(refuse)?
        }
    };
    let eos = metadata.eos.ok_or_else(|| Error::Metadata {
        key: "eos_token_id".into(),
        rule: "must be there: where it is absent llama.cpp takes an id of its own for it".into(),
    })?;
    for id in vocabulary.pieces.len()..metadata.config.vocab_size {
        vocabulary.pieces.push(unused(id));
    }
    let pieces = &vocabulary.pieces;
    let mut texts = BTreeSet::new();
    if let Some(piece) = pieces.iter().find(|piece| !texts.insert(piece.text.as_str())) {
        // llama.cpp aborts.
        return Err(refuse(format!("the token {} occurs twice", quoted(&piece.text))));
    }
    let unknown = pieces.iter().position(|piece| piece.kind == Kind::Unknown);
    let mut entries = vec![
        ("model", vocabulary.kind.into()),
        ("pre", vocabulary.pre.into()),
        ("tokens", Entry::Strings(pieces.iter().map(|piece| piece.text.clone()).collect())),
        ("token_type", Entry::I32s(pieces.iter().map(|piece| piece.kind as i32).collect())),
        ("bos_token_id", metadata.bos.unwrap_or(eos).into()),
        ("eos_token_id", eos.into()),
        ("add_bos_token", (metadata.bos.is_some() && metadata.add_bos).into()),
        ("add_eos_token", false.into()),
        ("add_space_prefix", vocabulary.space_prefix.into()),
    ];
    if let Some(id) = unknown {
        entries.push(("unknown_token_id", (id as u32).into()));
    }
    match vocabulary.merges {
        Some(merges) => entries.push(("merges", Entry::Strings(merges))),
        None => {
            entries.push(("scores", Entry::F32s(pieces.iter().map(|piece| piece.score).collect())))
        }
    }
    if vocabulary.kind == "t5" {
        entries.push(("remove_extra_whitespaces", vocabulary.merge_spaces.into()));
    }
    if !vocabulary.charsmap.is_empty() {
        entries.push(("precompiled_charsmap", Entry::U8s(vocabulary.charsmap)));
    }
    let mut entries: Vec<_> =
        entries.into_iter().map(|(key, entry)| (format!("tokenizer.ggml.{key}"), entry)).collect();
    if let Some(template) = &metadata.chat_template {
        entries.push(("tokenizer.chat_template".into(), template.as_str().into()));
    }
    Ok(entries)
}

fn unused(id: usize) -> Piece {
    Piece { text: format!("[PAD{id}]"), score: UNUSED_SCORE, kind: Kind::Unused }
}

fn sentence_piece(model: Model<'_>) -> Result<Vocabulary, String> {
    let demand = |holds: bool, rule: &str| if holds { Ok(()) } else { Err(rule.to_owned()) };
    demand(
        model.escape_whitespaces && !model.whitespace_as_suffix,
        "spaces must be escaped and stand before a word: llama.cpp knows no other way",
    )?;
    let bytes = model.pieces.iter().filter(|piece| piece.kind == Kind::Byte).count();
    let kind = match model.algorithm {
        Algorithm::Unigram => {
            demand(
                bytes == 0,
                "a unigram model with byte fallback: llama.cpp takes <unk> for a character outside the vocabulary; \
                 --to hf keeps it as it is",
            )?;
            "t5"
        }
        Algorithm::Bpe => {
            demand(
                bytes == 256,
                "a BPE model without byte fallback: llama.cpp ends at a character outside the vocabulary; \
                 --to hf keeps it as it is",
            )?;
            demand(
                model.charsmap.is_empty() && !model.remove_extra_whitespaces,
                "a BPE model that normalizes texts: llama.cpp does not; --to hf keeps it as it is",
            )?;
            "llama"
        }
        Algorithm::Other => {
            return Err("a model of words or characters: llama.cpp has no such tokenizer".into());
        }
    };
    Ok(Vocabulary {
        kind,
        pre: "default",
        pieces: model.pieces,
        merges: None,
        charsmap: model.charsmap.to_vec(),
        space_prefix: model.add_dummy_prefix,
        merge_spaces: model.remove_extra_whitespaces,
    })
}

fn tokenizer_json(json: &Value) -> Result<Vocabulary, String> {
    match json["model"]["type"].as_str() {
        Some("BPE") => bpe(json),
        Some("Unigram") => unigram(json),
        other => Err(format!(
            "a model of type {}: llama.cpp has no such tokenizer; --to hf keeps it as it is",
            other.unwrap_or("unknown")
        )),
    }
}

/// llama.cpp's name for what cuts a text into words before merges, if it has one.
fn pre(json: &Value) -> Option<&'static str> {
    let byte_level = |part: &Value, use_regex: bool| {
        part["type"] == "ByteLevel"
            && part["add_prefix_space"] == false
            && part["use_regex"].as_bool().unwrap_or(true) == use_regex
    };
    let ignores = json["model"]["ignore_merges"].as_bool().unwrap_or(false);
    let part = &json["pre_tokenizer"];
    let parts = part["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice);
    let plain = json["normalizer"].is_null();
    if plain && !ignores && byte_level(part, true) {
        return Some("gpt-2");
    }
    let [first, second] = parts else { return None };
    let digits = first["type"] == "Digits" && first["individual_digits"] == true;
    if plain && !ignores && digits && byte_level(second, true) {
        return Some("smollm");
    }
    let isolated = first["type"] == "Split"
        && first["behavior"] == "Isolated"
        && first["invert"].as_bool() != Some(true);
    if !isolated || !byte_level(second, false) {
        return None;
    }
    match first["pattern"]["Regex"].as_str()? {
        LLAMA3 if plain && ignores => Some("llama-bpe"),
        QWEN2 if !ignores && (plain || json["normalizer"]["type"] == "NFC") => Some("qwen2"),
        _ => None,
    }
}

fn bpe(json: &Value) -> Result<Vocabulary, String> {
    let model = &json["model"];
    let pre = pre(json).ok_or(
        "its words are cut in a way that llama.cpp has no name for here (known: those of GPT-2, SmolLM, LLaMA 3, Qwen 2); \
         --to hf keeps it as it is",
    )?;
    let empty = |key: &str| model[key].as_str().is_none_or(str::is_empty);
    let plain = empty("continuing_subword_prefix")
        && empty("end_of_word_suffix")
        && model["byte_fallback"] != true;
    if !plain {
        return Err("a BPE with affixes or byte fallback: llama.cpp has no such tokenizer".into());
    }
    let vocab = model["vocab"].as_object().ok_or("model.vocab must be an object")?;
    let mut pieces = Vec::new();
    for (text, id) in vocab {
        place(&mut pieces, id, text, 0.0, Kind::Normal)?;
    }
    added(json, &mut pieces)?;
    let merges = model["merges"].as_array().ok_or("model.merges must be a list")?;
    let merge = |merge: &Value| match merge {
        Value::String(pair) => Some(pair.clone()),
        pair => Some(format!("{} {}", pair[0].as_str()?, pair[1].as_str()?)),
    };
    let merges = merges.iter().map(merge).collect::<Option<_>>();
    Ok(Vocabulary {
        kind: "gpt2",
        pre,
        pieces,
        merges: Some(merges.ok_or("a merge must be a pair of texts")?),
        charsmap: Vec::new(),
        space_prefix: false,
        merge_spaces: false,
    })
}

/// Tern's own unigram: over bytes, spelled as GPT-2 spells them. llama.cpp spells unigram pieces as they are, so it can hold
/// those alone that are text.
fn unigram(json: &Value) -> Result<Vocabulary, String> {
    let part = &json["pre_tokenizer"];
    let own = json["normalizer"].is_null()
        && part["type"] == "ByteLevel"
        && part["add_prefix_space"] == false
        && part["use_regex"].as_bool().unwrap_or(true);
    if !own {
        return Err("a unigram model with other parts than Tern's own or SentencePiece's; --to hf keeps it as it is".into());
    }
    let model = &json["model"];
    let unknown = model["unk_id"].as_u64();
    let vocab = model["vocab"].as_array().ok_or("model.vocab must be a list")?;
    let mut pieces = Vec::new();
    let mut specials = Vec::new();
    added(json, &mut specials)?;
    for (id, entry) in vocab.iter().enumerate() {
        let (Some(text), Some(score)) = (entry[0].as_str(), entry[1].as_f64()) else {
            return Err("an entry of model.vocab must be a text and a score".into());
        };
        let special = specials.get(id).filter(|piece| piece.kind != Kind::Unused);
        let piece = match special {
            _ if unknown == Some(id as u64) => {
                Piece { text: text.into(), score: 0.0, kind: Kind::Unknown }
            }
            Some(special) => special.clone(),
            None => {
                let text = plain(text).ok_or_else(|| {
                    format!(
                        "id {id} is no text but bytes: llama.cpp takes <unk> for such a character. A vocabulary made with \
                         train = \"bpe\", or from ASCII text with byte_fallback = false, can go to GGUF; --to hf keeps this one"
                    )
                })?;
                Piece { text, score: score as f32, kind: Kind::Normal }
            }
        };
        pieces.push(piece);
    }
    Ok(Vocabulary {
        kind: "t5",
        pre: "default",
        pieces,
        merges: None,
        charsmap: Vec::new(),
        space_prefix: false,
        merge_spaces: false,
    })
}

/// A piece in GPT-2's spelling of bytes, as the ASCII text that it stands for, with SentencePiece's spaces.
fn plain(piece: &str) -> Option<String> {
    let letter = |letter: char| match letter {
        '\u{120}' => Some(SPACE.to_owned()),
        '!'..='~' => Some(letter.to_string()),
        // Bytes 0 to 32 are at 256 and after.
        '\u{100}'..='\u{11f}' => Some(char::from(letter as u32 as u8).to_string()),
        _ => None,
    };
    piece.chars().map(letter).collect()
}

/// Puts the added tokens of a `tokenizer.json` at their ids.
fn added(json: &Value, pieces: &mut Vec<Piece>) -> Result<(), String> {
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let text = token["content"].as_str().ok_or("an added token must have a content")?;
        let kind = if token["special"] == true { Kind::Control } else { Kind::UserDefined };
        place(pieces, &token["id"], text, 0.0, kind)?;
    }
    Ok(())
}

/// Puts a piece at its id. Ids are bounded by the reader that has read the tokenizer before.
fn place(
    pieces: &mut Vec<Piece>,
    id: &Value,
    text: &str,
    score: f32,
    kind: Kind,
) -> Result<(), String> {
    let id = id.as_u64().and_then(|id| usize::try_from(id).ok()).ok_or("an id must be a number")?;
    while pieces.len() <= id {
        pieces.push(unused(pieces.len()));
    }
    pieces[id] = Piece { text: text.into(), score, kind };
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config::{Architecture, ModelConfig};
    use serde_json::json;

    fn golden(name: &str) -> Vec<u8> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/");
        std::fs::read(format!("{path}{name}")).unwrap()
    }

    fn metadata(source: TokenizerSource, vocab_size: usize) -> Metadata {
        let config = ModelConfig { vocab_size, ..ModelConfig::preset(Architecture::Bitlm) };
        Metadata { bos: Some(1), eos: Some(2), ..Metadata::new(config, source) }
    }

    fn find<'a>(entries: &'a [(String, Entry)], key: &str) -> &'a Entry {
        let key = format!("tokenizer.ggml.{key}");
        &entries.iter().find(|(found, _)| *found == key).unwrap().1
    }

    #[test]
    fn a_unigram_model_of_sentencepiece_is_t5_with_its_table() {
        let bytes = golden("tok_spm_unigram/plain.model");
        let size = Model::parse(&bytes).unwrap().pieces.len();
        let metadata = metadata(TokenizerSource::SentencePiece(bytes.clone()), size + 3);
        let entries = entries(&metadata).unwrap();
        assert_eq!(find(&entries, "model"), &"t5".into());
        assert_eq!(find(&entries, "add_eos_token"), &false.into());
        assert_eq!(find(&entries, "unknown_token_id"), &0u32.into());
        assert_eq!(find(&entries, "remove_extra_whitespaces"), &true.into());
        let Entry::U8s(charsmap) = find(&entries, "precompiled_charsmap") else { panic!() };
        assert!(bytes.windows(charsmap.len()).any(|part| part == charsmap));
        let Entry::Strings(tokens) = find(&entries, "tokens") else { panic!() };
        assert_eq!(
            (tokens.len(), tokens[size].as_str()),
            (size + 3, format!("[PAD{size}]").as_str())
        );
        let Entry::I32s(kinds) = find(&entries, "token_type") else { panic!() };
        assert_eq!((&kinds[..4], kinds[size]), (&[2, 3, 3, 1][..], 5));
        let Entry::F32s(scores) = find(&entries, "scores") else { panic!() };
        assert_eq!(scores.len(), size + 3);
    }

    #[test]
    fn byte_fallback_of_a_unigram_model_is_refused_with_what_keeps_it() {
        let bytes = golden("tok_spm_unigram/bytefallback.model");
        let size = Model::parse(&bytes).unwrap().pieces.len();
        let error = entries(&metadata(TokenizerSource::SentencePiece(bytes), size)).unwrap_err();
        assert!(error.to_string().contains("byte fallback"), "{error}");
        assert!(error.to_string().contains("--to hf"), "{error}");
    }

    #[test]
    fn bpe_over_bytes_is_gpt2_with_the_name_of_its_words() {
        for (name, expected) in [
            ("tok_gpt2_bpe", "gpt-2"),
            ("tok_smollm_bpe", "smollm"),
            ("tok_llama3_bpe", "llama-bpe"),
        ] {
            let text = String::from_utf8(golden(&format!("{name}/tokenizer.json"))).unwrap();
            let json: Value = serde_json::from_str(&text).unwrap();
            let source = TokenizerSource::Json(text);
            let size = crate::tokenizer::Tokenizer::from_source(&source).unwrap().vocab_size();
            let entries = entries(&metadata(source, size)).unwrap();
            assert_eq!(find(&entries, "model"), &"gpt2".into(), "{name}");
            assert_eq!(find(&entries, "pre"), &expected.into(), "{name}");
            let Entry::Strings(merges) = find(&entries, "merges") else { panic!() };
            assert_eq!(merges.len(), json["model"]["merges"].as_array().unwrap().len());
            assert!(merges.iter().all(|merge| merge.split(' ').count() == 2), "{name}");
            let Entry::Strings(tokens) = find(&entries, "tokens") else { panic!() };
            for (token, id) in json["model"]["vocab"].as_object().unwrap() {
                assert_eq!(&tokens[id.as_u64().unwrap() as usize], token, "{name}");
            }
            let Entry::I32s(kinds) = find(&entries, "token_type") else { panic!() };
            for token in json["added_tokens"].as_array().unwrap() {
                assert_eq!(kinds[token["id"].as_u64().unwrap() as usize], 3, "{name}");
            }
            // Another way to cut words has no name.
            let mut other = json.clone();
            other["pre_tokenizer"] = json!({"type": "Whitespace"});
            assert!(tokenizer_json(&other).is_err(), "{name}");
        }
    }

    #[test]
    fn own_unigram_pieces_are_spelled_as_text_or_refused() {
        let tokenizer = |piece: &str| {
            json!({
                "added_tokens": [
                    {"id": 0, "content": "<unk>", "special": true},
                    {"id": 1, "content": "<s>", "special": true},
                ],
                "normalizer": null,
                "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
                "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["<s>", 0], [piece, -1.5]]},
            })
        };
        let pieces = tokenizer_json(&tokenizer("\u{120}a\u{10a}")).unwrap().pieces;
        assert_eq!(
            pieces[2],
            Piece { text: "\u{2581}a\n".into(), score: -1.5, kind: Kind::Normal }
        );
        assert_eq!((pieces[0].kind, pieces[1].kind), (Kind::Unknown, Kind::Control));
        let error = tokenizer_json(&tokenizer("\u{c3}")).err().unwrap();
        assert!(error.contains("id 2 is no text"), "{error}");
    }

    #[test]
    fn without_an_end_there_is_no_file() {
        let bytes = golden("tok_spm_unigram/plain.model");
        let size = Model::parse(&bytes).unwrap().pieces.len();
        let mut metadata = metadata(TokenizerSource::SentencePiece(bytes), size);
        metadata.eos = None;
        assert!(entries(&metadata).unwrap_err().to_string().contains("eos_token_id"));
    }
}
