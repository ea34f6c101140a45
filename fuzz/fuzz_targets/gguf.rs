//! A GGUF file: every tensor of what parses is read; what imports is a model that can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_format::gguf::Gguf;
use tern_format::packed::PackedModel;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::parse(bytes) else { return };
    for view in file.tensors.values() {
        let _ = (view.floats(), view.trits());
    }
    for value in file.metadata.values() {
        let _ = value.to_string();
    }
    // The regular expressions of byte-level BPE take a hundred times as long as all else; `gguf_tokenizer` reads such.
    if file.find("tokenizer.ggml.model").is_ok_and(|model| model == Some("gpt2")) {
        return;
    }
    if let Ok(imported) = tern_infer::import::gguf(bytes) {
        let Ok(written) = imported.model.to_bytes() else { panic!("an import cannot be written") };
        let Ok(read) = PackedModel::from_bytes(&written) else { panic!("an import cannot be read") };
        assert!(read == imported.model);
    }
});
