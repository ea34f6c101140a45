//! What several targets do with what they have loaded.
#![forbid(unsafe_code)]

use tern_format::stream::TextStream;
use tern_format::tokenizer::Tokenizer;

/// Texts that reach every part of a tokenizer: words, runs of spaces, digits, accents, characters of several bytes,
/// a character that no vocabulary has, names of special tokens, control characters.
const TEXTS: [&str; 6] = [
    "",
    "Once upon a time",
    "  ab  a\tb\n\n 1234 don't <s></s>",
    "\u{fdfa} Ａé日本語🙂\u{e000}",
    "\0a\0\u{2581}\u{2581}b\u{301}",
    "aaaaaaaaaaaaaaaa bbbb cccc",
];

/// Encodes and decodes: whatever the vocabulary, this gives text or an error.
pub fn use_tokenizer(tokenizer: &Tokenizer) {
    let size = tokenizer.vocab_size() as u32;
    for text in TEXTS {
        let _ = tokenizer.encode_literally(text);
        if let Ok(ids) = tokenizer.encode(text) {
            let _ = tokenizer.decode(&ids);
        }
    }
    let mut stream = TextStream::new(tokenizer);
    for id in (0..size.min(64)).chain(size.saturating_sub(2)..=size) {
        let _ = (tokenizer.token(id), stream.push(id));
    }
    let _ = stream.finish();
    let _ = (tokenizer.bos(), tokenizer.eos(), tokenizer.unk(), tokenizer.id("<s>"));
}
