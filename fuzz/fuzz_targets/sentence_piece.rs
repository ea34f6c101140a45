//! A SentencePiece `.model`, and what a loaded one does with texts and ids.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_format::tokenizer::{Tokenizer, TokenizerSource};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tokenizer) = Tokenizer::from_source(&TokenizerSource::SentencePiece(bytes.to_vec())) {
        tern_fuzz::use_tokenizer(&tokenizer);
    }
});
