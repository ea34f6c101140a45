//! The container of checkpoints and packed models: every tensor that is found holds as many bytes as its shape asks for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_format::safetensors::Contents;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(contents) = Contents::parse(bytes) {
        for view in contents.tensors.values() {
            let elements: usize = view.shape.iter().product();
            assert_eq!((elements * view.dtype.bitsize()).div_ceil(8), view.bytes.len());
            if let Ok(values) = view.floats() {
                assert_eq!(values.len(), elements);
            }
        }
    }
});
