//! The configuration of a run: what parses reads back as itself.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tern_train::config::RunConfig;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(config) = RunConfig::parse(text, Path::new("run.toml"), &[]) {
        let resolved = RunConfig::parse(&config.to_toml(), Path::new("config.toml"), &[]);
        assert_eq!(resolved.expect("what is written parses"), config);
    }
});
