//! A packed model: what loads can be written, and reads back as itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_format::packed::PackedModel;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(model) = PackedModel::from_bytes(bytes) {
        let written = model.to_bytes().expect("what loads can be written");
        let again = PackedModel::from_bytes(&written).expect("what is written loads");
        assert_eq!(again, model);
    }
});
