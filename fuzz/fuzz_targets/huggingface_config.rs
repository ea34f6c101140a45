//! A `config.json` of transformers: what parses is a valid architecture, whose tensors can be named.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_format::huggingface::{Config, source};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(config) = Config::parse(text) else { return };
    assert!(config.model.validate().is_ok());
    let few = tern_format::config::ModelConfig { num_hidden_layers: 1, ..config.model };
    for (name, _) in few.tensors() {
        let _ = source(&name, few.architecture);
    }
});
