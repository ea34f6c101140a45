//! The tokenizer in a GGUF file, as a file of a kind that this program reads.
//!
//! ```text
//! tokenizer.ggml.model   gpt2    byte-level BPE: a tokenizer.json; `pre` says how a text is cut first
//!                        llama   SentencePiece BPE by scores: a SentencePiece model
//!                        t5      SentencePiece unigram with its table of normalization: a SentencePiece model
//! ```
//!
//! What a key means where it is absent is what llama.cpp takes it for (`llama-vocab.cpp`); but a `pre` must be there, because
//! without it nobody knows how the text was cut when the model was trained.

use std::collections::HashMap;

use super::Gguf;
use super::model::floats;
use super::pre_tokenizer::pre_tokenizer;
use super::value::{Array, Kind, Value};
use crate::error::{Error, Result, quoted};
use crate::foreign_keys::wrong;
use crate::protocol_buffer::{put_bytes, put_float, put_number};
use crate::sentence_piece_model::Kind as TokenKind;
use crate::tokenizer::TokenizerSource;

/// A tokenizer and what the file says of its use.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerParts {
    /// The tokenizer.
    pub tokenizer: TokenizerSource,
    /// The id that begins a document.
    pub bos: Option<u32>,
    /// Whether the file wants it before a text.
    pub add_bos: bool,
    /// The id that ends a document.
    pub eos: Option<u32>,
    /// The template of conversations.
    pub chat_template: Option<String>,
}

/// Keys that say nothing about the ids of a text.
const IGNORED: [&str; 21] = [
    "add_eos_token",
    "add_sep_token",
    "cls_token_id",
    "eom_token_id",
    "eot_token_id",
    "fim_mid_token_id",
    "fim_pad_token_id",
    "fim_pre_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
    "fim_suf_token_id",
    "mask_token_id",
    "middle_token_id",
    "padding_token_id",
    "prefix_token_id",
    "sep_token_id",
    "separator_token_id",
    "seperator_token_id",
    "suffix_token_id",
    "token_type_count",
    "unknown_token_id",
];

/// Keys that are read below.
const READ: [&str; 13] = [
    "add_bos_token",
    "add_space_prefix",
    "bos_token_id",
    "eos_token_id",
    "merges",
    "model",
    "normalizer.lowercase",
    "pre",
    "precompiled_charsmap",
    "remove_extra_whitespaces",
    "scores",
    "token_type",
    "tokens",
];

impl TokenizerParts {
    /// Reads the tokenizer of a file. Whether its parts fit together, [`crate::tokenizer::Tokenizer::from_source`] finds.
    ///
    /// # Errors
    ///
    /// [`Error::Metadata`] with the key that is missing, of another kind, or says what is not to be had here.
    pub fn new(file: &Gguf<'_>) -> Result<Self> {
        let keys = Keys(file);
        keys.check()?;
        let model: &str = keys.required("model")?;
        let tokens = keys.tokens()?;
        let (bos, eos) = (keys.id("bos_token_id", &tokens)?, keys.id("eos_token_id", &tokens)?);
        let (tokenizer, adds_bos) = match model {
            "gpt2" => keys.byte_level(&tokens)?,
            "llama" | "t5" => {
                (keys.sentence_piece(&tokens, bos, eos, model == "t5")?, model == "llama")
            }
            _ => {
                let rule = format!("must be gpt2, llama or t5, is {}", quoted(model));
                return Err(keys.wrong("model", rule));
            }
        };
        let add_bos = keys.find("add_bos_token")?.unwrap_or(adds_bos);
        Ok(Self {
            tokenizer,
            bos,
            add_bos,
            eos,
            chat_template: file.find::<&str>("tokenizer.chat_template")?.map(str::to_owned),
        })
    }
}

/// One token.
struct Token<'a> {
    text: std::borrow::Cow<'a, str>,
    kind: TokenKind,
}

/// The keys `tokenizer.ggml.…`.
struct Keys<'f, 'a>(&'f Gguf<'a>);

impl<'a> Keys<'_, 'a> {
    fn name(key: &str) -> String {
        format!("tokenizer.ggml.{key}")
    }

    fn wrong(&self, key: &str, rule: impl Into<String>) -> Error {
        wrong(&Self::name(key), rule)
    }

    fn find<T: TryFrom<Value<'a>, Error = String>>(&self, key: &str) -> Result<Option<T>> {
        self.0.find(&Self::name(key))
    }

    fn required<T: TryFrom<Value<'a>, Error = String>>(&self, key: &str) -> Result<T> {
        self.find(key)?.ok_or_else(|| self.wrong(key, "must be there"))
    }

    /// Refuses keys that nobody here knows.
    fn check(&self) -> Result<()> {
        if self.find("normalizer.lowercase")? == Some(true) {
            return Err(self.wrong("normalizer.lowercase", "must be false"));
        }
        let part = |key: &&str| key.strip_prefix("tokenizer.ggml.").map(str::to_owned);
        let unknown = self
            .0
            .metadata
            .keys()
            .filter_map(part)
            .find(|part| !IGNORED.contains(&part.as_str()) && !READ.contains(&part.as_str()));
        match unknown {
            Some(part) => {
                Err(self.wrong(&part, "is not known here, and may change the ids of a text"))
            }
            None => Ok(()),
        }
    }

    /// The tokens with what they are.
    fn tokens(&self) -> Result<Vec<Token<'a>>> {
        let tokens: Array<'a> = self.required("tokens")?;
        if tokens.kind() != Kind::String || tokens.is_empty() {
            let rule =
                format!("must be an array of texts, is {} of {:?}", tokens.len(), tokens.kind());
            return Err(self.wrong("tokens", rule));
        }
        let kinds = match self.array("token_type", tokens.len())? {
            None => vec![TokenKind::Normal; tokens.len()],
            Some(kinds) => kinds
                .values()
                .map(|kind| u64::try_from(kind).map(TokenKind::of))
                .collect::<Result<_, _>>()
                .map_err(|rule| self.wrong("token_type", rule))?,
        };
        let token = |(id, (value, kind)): (usize, (Value<'a>, TokenKind))| {
            let text = match value {
                // As llama.cpp names it, which takes tokens for different ones.
                Value::String("") => format!("[EMPTY_{id}]").into(),
                Value::String(text) => text.into(),
                _ => "".into(),
            };
            Token { text, kind }
        };
        let tokens: Vec<_> = tokens.values().zip(kinds).enumerate().map(token).collect();
        let mut seen = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            if let Some(other) = seen.insert(&*token.text, id) {
                let rule = format!("tokens {other} and {id} are both {}", quoted(&token.text));
                return Err(self.wrong("tokens", rule));
            }
        }
        drop(seen);
        Ok(tokens)
    }

    /// An array with an element for each token.
    fn array(&self, key: &str, tokens: usize) -> Result<Option<Array<'a>>> {
        let array: Option<Array<'a>> = self.find(key)?;
        match array {
            Some(array) if array.len() != tokens => {
                let rule =
                    format!("must have one for each of {tokens} tokens, has {}", array.len());
                Err(self.wrong(key, rule))
            }
            array => Ok(array),
        }
    }

    fn id(&self, key: &str, tokens: &[Token<'_>]) -> Result<Option<u32>> {
        let id: Option<u32> = self.find(key)?;
        match id {
            Some(id) if id as usize >= tokens.len() => {
                Err(self.wrong(key, format!("must be below {}, is {id}", tokens.len())))
            }
            id => Ok(id),
        }
    }

    /// A `tokenizer.json`, written piece by piece: half a million tokens need no tree of values. And whether a BOS is added
    /// where the file does not say.
    fn byte_level(&self, tokens: &[Token<'_>]) -> Result<(TokenizerSource, bool)> {
        let Some(pre) = self.find::<&str>("pre")? else {
            let rule =
                "must be there: it says how a text is cut into words before they become tokens";
            return Err(self.wrong("pre", rule));
        };
        let pre = pre_tokenizer(pre).map_err(|rule| self.wrong("pre", rule))?;
        for changes in ["add_space_prefix", "remove_extra_whitespaces"] {
            if self.find(changes)? == Some(true) {
                return Err(self.wrong(changes, "must be false for byte-level BPE"));
            }
        }
        let merges: Array<'a> = self.required("merges")?;
        if merges.kind() != Kind::String {
            let rule = format!("must be an array of texts, is one of {:?}", merges.kind());
            return Err(self.wrong("merges", rule));
        }
        let mut json =
            String::from(r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":["#);
        let added = |token: &Token<'_>| {
            matches!(token.kind, TokenKind::Unknown | TokenKind::Control | TokenKind::UserDefined)
        };
        list(
            &mut json,
            tokens.iter().enumerate().filter(|(_, token)| added(token)),
            |json, (id, token)| {
                json.push_str(&format!(r#"{{"id":{id},"content":{},"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":{}}}"#, text(&token.text), token.kind != TokenKind::UserDefined));
            },
        );
        json.push_str(
            r#"],"normalizer":null,"pre_tokenizer":{"type":"Sequence","pretokenizers":["#,
        );
        for pattern in pre.patterns {
            json.push_str(&format!(r#"{{"type":"Split","pattern":{{"Regex":{}}},"behavior":"Isolated","invert":false}},"#, text(pattern)));
        }
        json.push_str(r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]},"post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":"#);
        json.push_str(&format!(r#"{},"vocab":{{"#, pre.ignore_merges));
        list(&mut json, tokens.iter().enumerate(), |json, (id, token)| {
            json.push_str(&format!("{}:{id}", text(&token.text)));
        });
        json.push_str(r#"},"merges":["#);
        let mut pairs = Vec::with_capacity(merges.len());
        for (i, merge) in merges.values().enumerate() {
            let Value::String(merge) = merge else { continue };
            // The first token may be a space itself.
            let start = merge.chars().next().map_or(0, char::len_utf8);
            let space = merge[start..].find(' ').map(|at| start + at);
            let Some((left, right)) = space.map(|at| (&merge[..at], &merge[at + 1..])) else {
                let rule =
                    format!("merge {i} must be two tokens and a space, is {}", quoted(merge));
                return Err(self.wrong("merges", rule));
            };
            pairs.push((left, right));
        }
        list(&mut json, pairs.into_iter(), |json, (left, right)| {
            json.push_str(&format!("[{},{}]", text(left), text(right)));
        });
        json.push_str("]}}");
        Ok((TokenizerSource::Json(json), pre.adds_bos))
    }

    /// A SentencePiece model: `sentencepiece_model.proto`.
    fn sentence_piece(
        &self,
        tokens: &[Token<'_>],
        bos: Option<u32>,
        eos: Option<u32>,
        unigram: bool,
    ) -> Result<TokenizerSource> {
        let scores = self
            .array("scores", tokens.len())?
            .ok_or_else(|| self.wrong("scores", "must be there"))?;
        let scores = floats(scores).map_err(|rule| self.wrong("scores", rule))?;
        let mut model = Vec::new();
        for (token, score) in tokens.iter().zip(scores) {
            let mut piece = Vec::new();
            put_bytes(&mut piece, 1, token.text.as_bytes());
            put_float(&mut piece, 2, score);
            put_number(&mut piece, 3, token.kind as u64);
            put_bytes(&mut model, 1, &piece);
        }
        let mut trainer = Vec::new();
        put_number(&mut trainer, 3, if unigram { 1 } else { 2 });
        put_number(
            &mut trainer,
            35,
            tokens.iter().any(|token| token.kind == TokenKind::Byte).into(),
        );
        let unknown = tokens.iter().position(|token| token.kind == TokenKind::Unknown);
        let named =
            [(45, unknown), (46, bos.map(|id| id as usize)), (47, eos.map(|id| id as usize))];
        for (field, id) in named {
            // A name that no piece has, where there is none.
            let name = id.and_then(|id| tokens.get(id)).map_or("", |token| &token.text);
            put_bytes(&mut trainer, field, name.as_bytes());
        }
        put_bytes(&mut model, 2, &trainer);
        let mut normalizer = Vec::new();
        if let Some(charsmap) = self.charsmap()? {
            put_bytes(&mut normalizer, 2, charsmap);
        }
        let prefix = self.find("add_space_prefix")?.unwrap_or(!unigram);
        put_number(&mut normalizer, 3, prefix.into());
        let removes: bool = self.find("remove_extra_whitespaces")?.unwrap_or(false);
        put_number(&mut normalizer, 4, removes.into());
        put_number(&mut normalizer, 5, 1);
        put_bytes(&mut model, 3, &normalizer);
        Ok(TokenizerSource::SentencePiece(model))
    }

    fn charsmap(&self) -> Result<Option<&'a [u8]>> {
        let Some(array) = self.find::<Array<'a>>("precompiled_charsmap")? else { return Ok(None) };
        match array.kind() {
            Kind::U8 | Kind::I8 => Ok(Some(array.bytes).filter(|bytes| !bytes.is_empty())),
            kind => {
                let rule = format!("must be an array of bytes, is one of {kind:?}");
                Err(self.wrong("precompiled_charsmap", rule))
            }
        }
    }
}

/// Elements with commas between them.
fn list<T>(
    json: &mut String,
    items: impl Iterator<Item = T>,
    mut write: impl FnMut(&mut String, T),
) {
    for (i, item) in items.enumerate() {
        if i > 0 {
            json.push(',');
        }
        write(json, item);
    }
}

/// A text between quotation marks, as JSON has it.
fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
