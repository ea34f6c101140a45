//! The `state.json` of a checkpoint. Its two files of tensors are those of the target `safetensors`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_train::checkpoint::State;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(state) = State::parse(text) {
        let written = serde_json::to_string(&state).expect("a state is plain values");
        assert_eq!(State::parse(&written).expect("what is written parses"), state);
    }
});
