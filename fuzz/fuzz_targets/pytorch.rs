//! A PyTorch state dict, and the values of its tensors.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(tensors) = tern_format::pytorch::parse(bytes) else { return };
    for tensor in tensors.values() {
        let count: usize = tensor.shape.iter().product();
        assert_eq!(tensor.bytes.len(), count * tensor.element_type.bytes());
        let _ = tensor.floats();
    }
});
