//! The tokenizer in the metadata of a GGUF file, and what a loaded one does with texts and ids.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tern_format::gguf::Gguf;
use tern_format::gguf::tokenizer::TokenizerParts;
use tern_format::tokenizer::{Tokenizer, TokenizerSource};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::parse(bytes) else { return };
    let Ok(TokenizerParts { tokenizer, .. }) = TokenizerParts::new(&file) else { return };
    let source = match tokenizer {
        TokenizerSource::Json(text) => TokenizerSource::Json(without_patterns(&text)),
        pieces => pieces,
    };
    if let Ok(tokenizer) = Tokenizer::from_source(&source) {
        tern_fuzz::use_tokenizer(&tokenizer);
    }
});

/// The same `tokenizer.json` without the regular expressions, which are ours and not the file's: to compile them takes a
/// hundred times as long as all else.
fn without_patterns(text: &str) -> String {
    let mut json: Value = serde_json::from_str(text).expect("what is made of a file is JSON");
    let parts = json["pre_tokenizer"]["pretokenizers"].as_array_mut().expect("parts in a sequence");
    parts.retain(|part| part["type"] != "Split");
    json.to_string()
}
