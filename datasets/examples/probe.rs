//! Scratch measurements.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "scratch")]
use std::time::Instant;
use tern_datasets::config::TokenizerKind;
use tern_datasets::stories::{Split, stories};
use tern_datasets::tokenizer_training::train_tokenizer;
use tern_format::tokenizer::Tokenizer;
use tern_datasets::documents::{Documents, Layout, collapse};
fn main() {
    let arg: Vec<String> = std::env::args().collect();
    let texts: Vec<String> = if arg[1] == "stories" { stories(1, Split::Train).take(arg[2].parse().unwrap()).map(|s| s.text).collect() }
        else { Documents::open(arg[1].as_ref(), &Layout { separator: arg[2].clone().into(), text_field: "text".into(), collapse_blank_lines: false }).unwrap().map(Result::unwrap).collect() };
    let _ = collapse;
    let bytes: usize = texts.iter().map(String::len).sum();
    println!("{} docs {} bytes", texts.len(), bytes);
    for spec in &arg[3..] {
        let (kind, rest) = spec.split_at(1);
        let fallback = !rest.ends_with('n');
        let size: usize = rest.trim_end_matches('n').parse().unwrap();
        let kind = if kind == "u" { TokenizerKind::Unigram } else { TokenizerKind::Bpe };
        let t = Instant::now();
        let source = match train_tokenizer(kind, size, fallback, &texts) { Ok(s) => s, Err(e) => { println!("{e}"); continue } };
        let train_s = t.elapsed().as_secs_f64();
        let tok = Tokenizer::from_source(&source).unwrap();
        let t = Instant::now();
        let mut n = 0; 
        for text in &texts { let ids = tok.encode_literally(text).unwrap(); n += ids.len(); assert_eq!(&tok.decode(&ids).unwrap(), text); }
        let h = tok.hash(); if std::env::var("DUMP").is_ok() { for i in 3..tok.vocab_size() as u32 { print!("{} ", tok.token(i).unwrap()); } println!(); }
        println!("{spec}: train {train_s:.2}s encode+decode {:.2}s tokens {n} {:.1}/doc {:.3} bytes/token hash {:02x}{:02x}{:02x}", t.elapsed().as_secs_f64(), n as f64 / texts.len() as f64, bytes as f64 / n as f64, h[0], h[1], h[2]);
    }
}
