//! What a packed model expects of a real text, token by token: the side of Tern in `tests/interchange`.
//!
//! ```sh
//! cargo run --release -p tern-infer --example teacher_forcing -- model.safetensors valid.txt 4096 256
//! ```
//!
//! The text is encoded as the model's tokenizer does, and cut into windows that begin with BOS. Prints one JSON object:
//! `text`, the part of the text that was read; `text_ids`, its ids; `windows`, each with `ids`, and for every id but the first
//! the `argmax` before it and its `loss` in nats.

#![allow(clippy::print_stdout, reason = "what it prints is its result")]

use std::error::Error;
use std::path::Path;

use serde_json::json;
use tern_infer::Model;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, tokens, window] = &arguments[..] else {
        return Err("usage: teacher_forcing MODEL TEXT TOKENS WINDOW".into());
    };
    let (tokens, window): (usize, usize) = (tokens.parse()?, window.parse()?);
    let model = Model::open(Path::new(model))?;
    let tokenizer = model.metadata().read_tokenizer()?;
    let text = std::fs::read_to_string(text)?;
    // Some six characters a token are more than enough.
    let text: String = text.chars().take(6 * tokens).collect();
    let text_ids = tokenizer.encode_literally(&text)?;
    let bos: Vec<u32> = model.metadata().bos.into_iter().collect();
    let body = window.checked_sub(bos.len()).filter(|&body| body > 1);
    let body = body.ok_or("a window needs two tokens behind BOS")?;
    let vocab_size = model.config().vocab_size;
    let mut windows = Vec::new();
    for chunk in text_ids[..tokens.min(text_ids.len())].chunks_exact(body) {
        let ids: Vec<u32> = bos.iter().chain(chunk).copied().collect();
        let logits = model.logits_all(&ids[..ids.len() - 1], &mut model.cache())?;
        let (mut argmax, mut losses) = (Vec::new(), Vec::new());
        for (logits, &next) in logits.chunks_exact(vocab_size).zip(&ids[1..]) {
            let most = (0..vocab_size).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            let most = most.ok_or("the vocabulary is empty")?;
            let sum: f64 = logits.iter().map(|&x| f64::from(x - logits[most]).exp()).sum();
            argmax.push(most);
            losses.push(sum.ln() + f64::from(logits[most]) - f64::from(logits[next as usize]));
        }
        windows.push(json!({"ids": ids, "argmax": argmax, "loss": losses}));
    }
    println!("{}", json!({"text": text, "text_ids": text_ids, "windows": windows}));
    Ok(())
}
