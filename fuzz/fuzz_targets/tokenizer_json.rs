//! A `tokenizer.json`, and what a loaded one does with texts and ids.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_format::tokenizer::{Tokenizer, TokenizerSource};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(tokenizer) = Tokenizer::from_source(&TokenizerSource::Json(text.to_owned())) {
        tern_fuzz::use_tokenizer(&tokenizer);
    }
});
