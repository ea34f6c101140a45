//! A GGUF file: every tensor of what parses is read; what imports is a model that can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_format::gguf::Gguf;
use tern_format::gguf::tokenizer::TokenizerParts;
use tern_format::packed::PackedModel;
use tern_format::tokenizer::Tokenizer;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::parse(bytes) else { return };
    for view in file.tensors.values() {
        let _ = (view.floats(), view.trits());
    }
    for value in file.metadata.values() {
        let _ = value.to_string();
    }
    if let Ok(parts) = TokenizerParts::new(&file)
        && let Ok(tokenizer) = Tokenizer::from_source(&parts.tokenizer)
    {
        tern_fuzz::use_tokenizer(&tokenizer);
    }
    if let Ok(imported) = tern_infer::import::gguf(bytes) {
        let Ok(written) = imported.model.to_bytes() else { panic!("an import cannot be written") };
        let Ok(read) = PackedModel::from_bytes(&written) else { panic!("an import cannot be read") };
        assert!(read == imported.model);
    }
});
