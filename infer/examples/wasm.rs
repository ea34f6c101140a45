//! Text from a packed model in WebAssembly: a module for browsers and Node, without glue code.
//!
//! ```sh
//! RUSTFLAGS='-C target-feature=+simd128 --cfg getrandom_backend="custom"' \
//!     cargo build --release -p tern-infer --example wasm --target wasm32-unknown-unknown
//! node infer/examples/wasm.mjs wasm.wasm MODEL "Once upon a time" 40
//! ```
//!
//! The host asks for room with `input`, writes a packed model there and calls `load`; then a prompt, and calls `generate`.
//! Both return whether they succeeded; `output` is the text or the error, `output_size_bytes` long.

use std::cell::RefCell;
use std::ops::ControlFlow;

use tern_format::packed::PackedModel;
use tern_infer::Model;
use tern_infer::generate::{Generator, Options};
use tern_infer::sampler::Settings;

thread_local! {
    static INPUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static OUTPUT: RefCell<String> = const { RefCell::new(String::new()) };
    static MODEL: RefCell<Option<Model>> = const { RefCell::new(None) };
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Room for so many bytes of input.
#[unsafe(no_mangle)]
extern "C" fn input(size_bytes: usize) -> *mut u8 {
    INPUT.with_borrow_mut(|input| {
        *input = vec![0; size_bytes];
        input.as_mut_ptr()
    })
}

/// Where the output begins.
#[unsafe(no_mangle)]
extern "C" fn output() -> *const u8 {
    OUTPUT.with_borrow(|output| output.as_ptr())
}

/// Bytes of the output, UTF-8.
#[unsafe(no_mangle)]
extern "C" fn output_size_bytes() -> usize {
    OUTPUT.with_borrow(String::len)
}

/// Takes the input as a packed model; the output names the kernel.
#[unsafe(no_mangle)]
extern "C" fn load() -> bool {
    answer(|input| {
        let model = Model::load(PackedModel::parse(input.into())?.0)?;
        let name = model.kernel().name().to_owned();
        MODEL.set(Some(model));
        Ok(name)
    })
}

/// Takes the input as a prompt, and goes on from it with the likeliest tokens.
#[unsafe(no_mangle)]
extern "C" fn generate(max_tokens: usize) -> bool {
    answer(|input| {
        MODEL.with_borrow(|model| {
            let model = model.as_ref().ok_or("no model was loaded")?;
            let options = Options {
                sampling: Settings::greedy(),
                max_tokens,
                ..Options::from(&model.metadata().generation)
            };
            let generator = Generator::new(model)?;
            let prompt = std::str::from_utf8(&input)?;
            Ok(generator.generate(prompt, &options, |_| ControlFlow::Continue(()))?.text)
        })
    })
}

fn answer(work: impl FnOnce(Vec<u8>) -> Result<String>) -> bool {
    let result = work(INPUT.take());
    let succeeded = result.is_ok();
    OUTPUT.set(result.unwrap_or_else(|error| error.to_string()));
    succeeded
}

/// Hash tables ask for it, so that nobody can choose keys that collide; here the only one to be harmed is the tab that
/// brought the keys.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(
    start: *mut u8,
    size_bytes: usize,
) -> std::result::Result<(), getrandom::Error> {
    // SAFETY: the caller gives room for so many bytes.
    unsafe { start.write_bytes(0x5a, size_bytes) };
    Ok(())
}
