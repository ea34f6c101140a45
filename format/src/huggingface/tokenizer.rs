//! The tokenizer of a packed model as files that `transformers` reads.
//!
//! A `tokenizer.json` goes as it is; where Tern has trained the model and nothing else says what begins a text, it is told to
//! begin one with BOS, as Tern does. SentencePiece's unigram models, which `transformers` no longer reads itself, are told in
//! the words of a `tokenizer.json`; the `.model` goes along.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::write::pretty;
use crate::error::{Error, Result};
use crate::packed::Metadata;
use crate::sentence_piece_model::{Algorithm, Kind, Model};
use crate::tokenizer::TokenizerSource;

/// Names and contents of the files.
///
/// # Errors
///
/// [`Error::Metadata`] of `tokenizer`, with the part that has no words there.
pub(super) fn files(metadata: &Metadata) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let refuse = |rule: String| Error::Metadata { key: "tokenizer".into(), rule };
    let tokenizer = metadata.read_tokenizer()?;
    let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
    // What a text begins with.
    let first = metadata.bos.filter(|_| metadata.add_bos);
    let mut class = "PreTrainedTokenizerFast";
    let mut files = match &metadata.tokenizer {
        TokenizerSource::Json(text) => {
            let mut parsed: Value =
                serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
            let silent = parsed["post_processor"].is_null() && metadata.provenance.is_some();
            match (silent, first, token(first)) {
                (true, Some(id), Some(bos)) => {
                    parsed["post_processor"] = begin_with(id, &bos);
                    vec![("tokenizer.json", pretty(&parsed))]
                }
                _ => vec![("tokenizer.json", text.clone().into_bytes())],
            }
        }
        TokenizerSource::SentencePiece(bytes) => {
            let model = Model::parse(bytes).map_err(refuse)?;
            let mut files = vec![("tokenizer.model", bytes.clone())];
            match model.algorithm {
                Algorithm::Unigram => {
                    let mut json = unigram(&model).map_err(refuse)?;
                    if let (Some(id), Some(bos)) = (first, token(first)) {
                        json["post_processor"] = begin_with(id, &bos);
                    }
                    files.push(("tokenizer.json", pretty(&json)));
                }
                // Its merges are in the scores; `transformers` finds them.
                Algorithm::Bpe => class = "LlamaTokenizer",
                Algorithm::Other => {
                    let rule =
                        "a SentencePiece model of words or characters: transformers reads none";
                    return Err(refuse(rule.into()));
                }
            }
            files
        }
    };
    let mut config = json!({
        "tokenizer_class": class,
        "model_max_length": metadata.config.max_position_embeddings,
        "clean_up_tokenization_spaces": false,
    });
    for (key, id) in
        [("bos_token", metadata.bos), ("eos_token", metadata.eos), ("unk_token", tokenizer.unk())]
    {
        if let Some(token) = token(id) {
            config[key] = token.into();
        }
    }
    if class == "LlamaTokenizer" {
        config["add_bos_token"] = first.is_some().into();
        config["add_eos_token"] = false.into();
        config["legacy"] = false.into();
    }
    if let Some(template) = &metadata.chat_template {
        config["chat_template"] = template.as_str().into();
    }
    files.push(("tokenizer_config.json", pretty(&config)));
    Ok(files)
}

/// Puts BOS before a text.
fn begin_with(id: u32, bos: &str) -> Value {
    let special = json!({"SpecialToken": {"id": bos, "type_id": 0}});
    let text = |letter: &str, type_id: u8| json!({"Sequence": {"id": letter, "type_id": type_id}});
    let mut tokens = serde_json::Map::new();
    tokens.insert(bos.to_owned(), json!({"id": bos, "ids": [id], "tokens": [bos]}));
    json!({
        "type": "TemplateProcessing",
        "single": [special, text("A", 0)],
        "pair": [special, text("A", 0), text("B", 1)],
        "special_tokens": tokens,
    })
}

/// A SentencePiece unigram model in the words of a `tokenizer.json`: first the table, then the spaces, then the pieces of
/// the whole text.
fn unigram(model: &Model<'_>) -> Result<Value, String> {
    if !model.escape_whitespaces || model.whitespace_as_suffix {
        return Err(
            "spaces must be escaped and stand before a word: tokenizer.json has no words for \
                    other ways"
                .into(),
        );
    }
    let mut parts = Vec::new();
    if !model.charsmap.is_empty() {
        let charsmap = STANDARD.encode(model.charsmap);
        parts.push(json!({"type": "Precompiled", "precompiled_charsmap": charsmap}));
    }
    if model.remove_extra_whitespaces {
        parts.push(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
        parts.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    }
    let mut words = Value::Null;
    if model.add_dummy_prefix && model.remove_extra_whitespaces {
        // No space is left at the beginning, before which it would add none; and it makes the text less long at worst, as
        // readers of ours reckon, than the two parts below.
        words = json!({
            "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": false
        });
    } else {
        if model.add_dummy_prefix {
            parts.push(json!({"type": "Prepend", "prepend": "\u{2581}"}));
        }
        parts.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}));
    }
    let mut decoders =
        vec![json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "})];
    if model.byte_fallback {
        decoders.push(json!({"type": "ByteFallback"}));
    }
    decoders.push(json!({"type": "Fuse"}));
    if model.add_dummy_prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = model.pieces.iter().position(|piece| piece.kind == Kind::Unknown);
    let added = model.pieces.iter().enumerate().filter(|(_, piece)| {
        matches!(piece.kind, Kind::Unknown | Kind::Control | Kind::UserDefined)
    });
    let added: Vec<Value> = added
        .map(|(id, piece)| {
            json!({
                "id": id,
                "content": piece.text,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": piece.kind != Kind::UserDefined,
            })
        })
        .collect();
    // As text: 3.1 as f32 has more digits as f64, and readers round them back.
    let vocab: Vec<Value> =
        model.pieces.iter().map(|piece| json!([piece.text, f64::from(piece.score)])).collect();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": parts},
        "pre_tokenizer": words,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": vocab,
            "byte_fallback": model.byte_fallback,
        },
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config::{Architecture, ModelConfig};
    use crate::tokenizer::Tokenizer;

    fn read(name: &str) -> Vec<u8> {
        let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/");
        std::fs::read(format!("{goldens}{name}")).unwrap()
    }

    fn metadata(source: TokenizerSource) -> Metadata {
        let vocab_size = Tokenizer::from_source(&source).unwrap().vocab_size();
        let config = ModelConfig { vocab_size, ..ModelConfig::preset(Architecture::Bitlm) };
        Metadata { bos: Some(1), eos: Some(2), ..Metadata::new(config, source) }
    }

    fn file(files: &[(&str, Vec<u8>)], name: &str) -> Option<Vec<u8>> {
        files.iter().find(|(found, _)| *found == name).map(|(_, bytes)| bytes.clone())
    }

    #[test]
    fn sentencepieces_unigram_models_encode_and_decode_as_before_in_other_words() {
        for name in ["plain", "bytefallback"] {
            let bytes = read(&format!("tok_spm_unigram/{name}.model"));
            let metadata = metadata(TokenizerSource::SentencePiece(bytes.clone()));
            let files = files(&metadata).unwrap();
            assert_eq!(file(&files, "tokenizer.model"), Some(bytes));
            let json = file(&files, "tokenizer.json").unwrap();
            let json = Tokenizer::from_source(&TokenizerSource::from_bytes(json).unwrap()).unwrap();
            let own = metadata.read_tokenizer().unwrap();
            let samples: Value =
                serde_json::from_slice(&read(&format!("tok_spm_unigram/{name}.json"))).unwrap();
            let mut seen = 0;
            for sample in samples["samples"].as_array().unwrap() {
                let text = sample["text"].as_str().unwrap();
                let ids = own.encode(text).unwrap();
                assert_eq!(json.encode_literally(text).unwrap(), ids, "{name} {text:?}");
                seen += 1;
            }
            assert!(seen > 10, "{seen} samples");
            assert_eq!(
                (json.unk(), json.token(1), json.token(2)),
                (own.unk(), own.token(1), own.token(2))
            );
        }
    }

    #[test]
    fn a_tokenizer_json_goes_as_it_is_and_begins_texts_only_where_tern_trained() {
        let text = String::from_utf8(read("tok_gpt2_bpe/tokenizer.json")).unwrap();
        let mut parsed: Value = serde_json::from_str(&text).unwrap();
        parsed["post_processor"] = Value::Null;
        let mut metadata = metadata(TokenizerSource::Json(parsed.to_string()));
        metadata.chat_template = Some("{{ messages }}".into());
        let before = files(&metadata).unwrap();
        assert_eq!(file(&before, "tokenizer.json").unwrap(), metadata.tokenizer.as_bytes());
        let config: Value =
            serde_json::from_slice(&file(&before, "tokenizer_config.json").unwrap()).unwrap();
        assert_eq!(config["chat_template"], "{{ messages }}");
        let own = metadata.read_tokenizer().unwrap();
        assert_eq!(config["eos_token"].as_str(), own.token(2).as_deref());
        metadata.provenance = Some(crate::packed::Provenance {
            run: "tiny".into(),
            step: 1,
            tokens: 1,
            data_identity: "00".into(),
            data_licence: None,
            teacher_licence: None,
            commit: "abc".into(),
            val_loss: None,
        });
        let after: Value =
            serde_json::from_slice(&file(&files(&metadata).unwrap(), "tokenizer.json").unwrap())
                .unwrap();
        assert_eq!(after["post_processor"]["type"], "TemplateProcessing");
        parsed["post_processor"] = after["post_processor"].clone();
        assert_eq!(after, parsed);
    }
}
