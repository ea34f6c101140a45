//! A checkpoint: `state.json` where the bytes begin with a brace, else one of its two files of tensors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_format::safetensors::parse_f32;
use tern_train::checkpoint::State;

fuzz_target!(|bytes: &[u8]| {
    if bytes.first() != Some(&b'{') {
        let _ = parse_f32(bytes);
    } else if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = State::parse(text);
    }
});
