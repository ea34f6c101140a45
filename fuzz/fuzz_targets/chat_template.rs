//! A chat template and the conversation that it is given: a line for each message, then the template.
#![no_main]

use std::sync::LazyLock;
use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use tern_format::chat_template::{ChatTemplate, Message, Role};
use tern_format::config::{Architecture, ModelConfig};
use tern_format::packed::Metadata;
use tern_format::tokenizer::{Tokenizer, TokenizerSource};

/// A vocabulary of bytes and three control tokens.
static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let json = include_str!("../corpus/tokenizer_json/seed-bpe").to_owned();
    Tokenizer::from_source(&TokenizerSource::Json(json)).expect("a seed is a tokenizer")
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (messages, template) = text.split_once("\n\n").unwrap_or(("", text));
    let messages = messages.lines().zip([Role::User, Role::Assistant].into_iter().cycle());
    let messages: Vec<_> = messages.map(|(line, role)| Message::new(role, line)).collect();
    let source = TokenizerSource::Json(String::new());
    let mut metadata = Metadata::new(ModelConfig::preset(Architecture::Llama), source);
    (metadata.bos, metadata.eos) = (TOKENIZER.bos(), TOKENIZER.eos());
    metadata.chat_template = Some(template.to_owned());
    let Ok(template) = ChatTemplate::of(&metadata, &TOKENIZER) else { return };
    template.turn_ends();
    if let Ok(text) = template.render(&messages, true, SystemTime::UNIX_EPOCH) {
        // A vocabulary so small cannot spell everything.
        drop(template.encode(&text));
    }
});
