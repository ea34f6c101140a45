//! What one file is: told by its bytes, never by its name.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde_json::{Map, Value, json};
use tern_datasets::token_file::Header;
use tern_format::checksum::hex;
use tern_format::config::ModelConfig;
use tern_format::gguf::tokenizer::TokenizerParts;
use tern_format::gguf::{self, Gguf};
use tern_format::huggingface;
use tern_format::packed::PackedModel;
use tern_format::pytorch;
use tern_format::safetensors::Contents;
use tern_format::tokenizer::{Tokenizer, TokenizerSource};
use tern_kernels::mapped_file::MappedFile;

use super::{Report, Tensor, TokenizerFacts};

/// The largest text that is read as a whole: an index of shards, a configuration, a tokenizer.
const MOST_TEXT_BYTES: usize = 1 << 26;

/// Describes a file.
pub(super) fn inspect(path: &Path) -> Result<Report> {
    let map = MappedFile::open(path).with_context(|| path.display().to_string())?;
    describe(path, &map).with_context(|| path.display().to_string())
}

fn describe(path: &Path, bytes: &[u8]) -> Result<Report> {
    let report = |kind| Report::new(path.into(), kind, bytes.len() as u64);
    if Gguf::recognize(bytes) {
        return gguf(report("GGUF file"), bytes);
    }
    if pytorch::recognize(bytes) {
        return state_dict(report("PyTorch state dict"), bytes);
    }
    if let Some(header) = Header::recognize(bytes) {
        return Ok(token_file(report("token file"), header?));
    }
    let start = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if start == Some(&b'{') && bytes.len() <= MOST_TEXT_BYTES {
        return json_file(&report, bytes);
    }
    // What begins with a length and a brace is safetensors, whatever is wrong with it.
    if bytes.get(8) == Some(&b'{') {
        return safetensors(report("safetensors file"), bytes);
    }
    let Ok(tokenizer) =
        TokenizerSource::from_bytes(bytes.to_vec()).and_then(|source| facts(&source))
    else {
        // Whoever reads models knows more kinds by name.
        return safetensors(report("safetensors file"), bytes);
    };
    Ok(Report { tokenizer: Some(tokenizer), ..report("SentencePiece model") })
}

pub(super) fn facts(source: &TokenizerSource) -> tern_format::Result<TokenizerFacts> {
    let tokenizer = Tokenizer::from_source(source)?;
    let named =
        |id: Option<u32>| id.map(|id| tokenizer.token(id).unwrap_or_else(|| id.to_string()));
    Ok(TokenizerFacts {
        kind: match source {
            TokenizerSource::Json(_) => "tokenizer.json",
            TokenizerSource::SentencePiece(_) => "SentencePiece",
        },
        size_bytes: source.as_bytes().len() as u64,
        vocab_size: tokenizer.vocab_size(),
        bos: named(tokenizer.bos()),
        eos: named(tokenizer.eos()),
    })
}

/// A configuration, or why there is none.
fn with_config(report: Report, config: tern_format::Result<ModelConfig>) -> Report {
    match config {
        Ok(config) => Report {
            parameters: Some(config.parameters()),
            config: serde_json::to_value(config).ok(),
            ..report
        },
        Err(error) => Report { refused: Some(error.to_string()), ..report },
    }
}

/// A tokenizer; if it is none, that is said where nothing else is amiss.
pub(super) fn with_tokenizer(
    report: Report,
    source: tern_format::Result<TokenizerSource>,
) -> Report {
    match source.and_then(|source| facts(&source)) {
        Ok(tokenizer) => Report { tokenizer: Some(tokenizer), ..report },
        Err(error) => Report { refused: report.refused.or(Some(error.to_string())), ..report },
    }
}

fn gguf(report: Report, bytes: &[u8]) -> Result<Report> {
    let file = Gguf::parse(bytes)?;
    let metadata = file.metadata.iter().map(|(key, value)| {
        let value = match *value {
            gguf::Value::Bool(value) => value.into(),
            gguf::Value::Float(value) => value.into(),
            gguf::Value::Integer(value) => i64::try_from(value).map_or(Value::Null, Value::from),
            ref other => other.to_string().into(),
        };
        ((*key).to_owned(), value)
    });
    let metadata = metadata.collect();
    let mut tensors: Vec<_> = file
        .tensors
        .iter()
        .map(|(name, view)| Tensor {
            name: (*name).to_owned(),
            stored: format!("{:?}", view.block_type).to_lowercase(),
            shape: view.shape.clone(),
            size_bytes: view.bytes.len() as u64,
        })
        .collect();
    tensors.sort_by(|a, b| natural(&a.name).cmp(&natural(&b.name)));
    let config = gguf::model::Config::new(&file).map(|config| config.model);
    let report = with_config(Report { metadata, tensors, ..report }, config);
    Ok(with_tokenizer(report, TokenizerParts::new(&file).map(|parts| parts.tokenizer)))
}

/// A name with its numbers as numbers, so that block 10 follows block 9.
pub(super) fn natural(name: &str) -> Vec<(u64, &str)> {
    name.split('.').map(|part| (part.parse().unwrap_or(u64::MAX), part)).collect()
}

fn state_dict(report: Report, bytes: &[u8]) -> Result<Report> {
    let tensors = pytorch::list(bytes)?.into_iter().map(|(name, (element_type, shape))| {
        let count = shape.iter().fold(1u64, |count, &side| count.saturating_mul(side as u64));
        let size_bytes = count.saturating_mul(element_type.bytes() as u64);
        Tensor { name, stored: format!("{element_type:?}").to_lowercase(), shape, size_bytes }
    });
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_by(|a, b| natural(&a.name).cmp(&natural(&b.name)));
    Ok(Report { tensors, ..report })
}

fn token_file(report: Report, header: Header) -> Report {
    let metadata = json!({
        "vocab_size": header.vocab_size,
        "bos": header.bos,
        "eos": header.eos,
        "tokens": header.tokens,
        "documents": header.documents,
        "text_bytes": header.text_bytes,
        "tokenizer_sha256": hex(&header.vocab_hash),
    });
    Report { metadata: object(metadata), ..report }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn json_file(report: &impl Fn(&'static str) -> Report, bytes: &[u8]) -> Result<Report> {
    let text = std::str::from_utf8(bytes)?;
    let map: Map<String, Value> = serde_json::from_str(text)?;
    if map.contains_key("weight_map") {
        let shards: std::collections::BTreeSet<_> = map["weight_map"]
            .as_object()
            .map(|weights| weights.values().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let weights = map["weight_map"].as_object().map_or(0, Map::len);
        let metadata =
            json!({"shards": shards, "tensors": weights, "metadata": map.get("metadata")});
        return Ok(Report { metadata: object(metadata), ..report("index of safetensors shards") });
    }
    if map.contains_key("model_type") {
        let config = huggingface::Config::parse(text).map(|config| config.model);
        let report = Report { metadata: map, ..report("configuration of transformers") };
        return Ok(with_config(report, config));
    }
    if map.get("model").is_some_and(Value::is_object) {
        let source = TokenizerSource::Json(text.to_owned());
        return Ok(Report { tokenizer: Some(facts(&source)?), ..report("tokenizer.json") });
    }
    Err(anyhow!("JSON of no kind that tern knows"))
}

/// Tensors by name, as every safetensors file has them.
pub(super) fn tensors(contents: &Contents<'_>) -> Vec<Tensor> {
    let tensor = |(name, view): (&String, &tern_format::safetensors::View<'_>)| Tensor {
        name: name.clone(),
        stored: format!("{:?}", view.dtype).to_lowercase(),
        shape: view.shape.clone(),
        size_bytes: view.bytes.len() as u64,
    };
    let mut tensors: Vec<_> = contents.tensors.iter().map(tensor).collect();
    tensors.sort_by(|a, b| natural(&a.name).cmp(&natural(&b.name)));
    tensors
}

/// A packed model is one by what its metadata say.
fn safetensors(report: Report, bytes: &[u8]) -> Result<Report> {
    let contents = Contents::parse(bytes)?;
    let packed = PackedModel::recognize(&contents);
    let tensors = tensors(&contents);
    let mut entries = contents.metadata;
    let config = entries.remove("config").filter(|_| packed);
    let tokenizer = entries.remove("tokenizer").filter(|_| packed);
    let metadata = entries
        .into_iter()
        .map(|(key, text)| {
            let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
            (key, value)
        })
        .collect();
    let report = Report { metadata, tensors, ..report };
    let Some(config) = config else { return Ok(report) };
    let report = Report { kind: "packed model", ..report };
    let parsed = serde_json::from_str::<ModelConfig>(&config)
        .map_err(|source| tern_format::Error::Json { source })
        .and_then(|config| config.validate().map(|()| config));
    let source = match (tokenizer, contents.tensors.get("tokenizer.model")) {
        (Some(json), _) => TokenizerSource::Json(json),
        (None, Some(view)) => TokenizerSource::SentencePiece(view.bytes.to_vec()),
        (None, None) => return Ok(with_config(report, parsed)),
    };
    Ok(with_tokenizer(with_config(report, parsed), Ok(source)))
}
