//! A token file: header, size and ids.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_datasets::token_file::check;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = check(bytes) {
        assert!(header.tokens <= bytes.len() as u64);
        assert!(header.vocab_size > 0);
    }
});
