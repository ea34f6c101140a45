//! Conversations to tokens, by the template that a model carries.
//!
//! Templates are Jinja (`jinja.rs`), with what `transformers` gives them: `messages`, each with `role` and `content`,
//! `add_generation_prompt`, `bos_token`, `eos_token`, `raise_exception` and `strftime_now` (in UTC). A file without a
//! template gets a plain one ([`Origin`]).
//!
//! What people write is text: a user who types `<|im_end|>` has typed ten characters and ended nothing. Before a template
//! sees them, such names are broken by a character that occurs nowhere else (`names.rs`); the names that are whole in what it
//! writes are its own.

mod jinja;
mod names;

use std::ops::Range;
use std::time::SystemTime;

use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::packed::Metadata;
use crate::tokenizer::Tokenizer;
use jinja::Template;
use names::Names;

pub use names::Text;

/// For models whose vocabulary has its tokens.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' \
    + message['content'] + '<|im_end|>\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
/// For models that know of no conversations.
const PLAIN: &str = "{{ bos_token }}{% for message in messages %}\
    {% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}\
    {% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n' }}\
    {% else %}{{ 'Assistant: ' + message['content'] + '\\n' }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

/// The shortest text between turns that says that one has ended.
const SHORTEST_STOP: usize = 3;

/// What a message counts for beside its content, in bytes, where a template's steps are limited.
const BYTES_PER_MESSAGE: usize = 64;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Whoever set the model up.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// Its name in templates and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// Where a template comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The model's file.
    File,
    /// The file has none, but its vocabulary has `<|im_start|>` and `<|im_end|>`: `ChatML`.
    ChatMl,
    /// The file has none: `User:` and `Assistant:` before each turn.
    Plain,
}

/// What ends the model's turn, beside EOS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurnEnds {
    /// Control tokens that the template writes between turns.
    pub ids: Vec<u32>,
    /// Where there are none, the text that it writes there.
    pub texts: Vec<String>,
}

/// What stands for a question, its answer and the next question where a template is looked at: words that none writes.
const QUESTION: &str = "question-5e1f";
const ANSWER: &str = "answer-5e1f";
const NEXT: &str = "next-5e1f";

/// A chat template and what it needs to know of its model.
#[derive(Debug)]
pub struct ChatTemplate {
    template: Template,
    origin: Origin,
    bos: Option<String>,
    eos: Option<String>,
    names: Names,
    tokenizer: Tokenizer,
}

impl ChatTemplate {
    /// The template of a model, or the plain one that suits its vocabulary.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] where the file's is none.
    pub fn of(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Self> {
        let names = Names::new(tokenizer.special_tokens())?;
        let (source, origin) = match &metadata.chat_template {
            Some(template) => (template.as_str(), Origin::File),
            None if names.has("<|im_start|>") && names.has("<|im_end|>") => {
                (CHATML, Origin::ChatMl)
            }
            None => (PLAIN, Origin::Plain),
        };
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
        Ok(Self {
            template: Template::parse(source)?,
            origin,
            bos: name(metadata.bos),
            eos: name(metadata.eos),
            names,
            tokenizer: tokenizer.clone(),
        })
    }

    /// Where it comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The text of a conversation, ready for the model's answer if `answer`.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] where the template fails, takes too much, or refuses the conversation: some know no system prompt.
    pub fn render(&self, messages: &[Message], answer: bool, now: SystemTime) -> Result<Text> {
        let contents = || messages.iter().map(|message| message.content.as_str());
        let sentinel = names::sentinel(contents().chain([self.template.source()]));
        let sentinel = sentinel.ok_or_else(|| Error::Template {
            line: 1,
            rule: "the conversation has every character there is".to_owned(),
        })?;
        let message = |message: &Message| {
            let content = self.names.broken(&message.content, sentinel);
            context! { role => message.role.name(), content }
        };
        let token = |token: &Option<String>| token.as_deref().map_or(Value::UNDEFINED, Value::from);
        let variables = context! {
            messages => messages.iter().map(message).collect::<Value>(),
            add_generation_prompt => answer,
            tools => (),
            documents => (),
            bos_token => token(&self.bos),
            eos_token => token(&self.eos),
        };
        let bytes = contents().map(|content| content.len() + BYTES_PER_MESSAGE).sum();
        let written = self.template.render(variables, bytes, now)?;
        Ok(self.names.read(&written, sentinel))
    }

    /// The ids of a rendered conversation: control tokens where the template wrote their names, text everywhere else.
    ///
    /// Where nobody typed such a name, these are the ids of the text as `transformers` has them.
    ///
    /// # Errors
    ///
    /// A character for which the vocabulary has neither a token nor a substitute.
    pub fn encode(&self, text: &Text) -> Result<Vec<u32>> {
        let controls =
            || text.controls().iter().map(|(place, token)| (place, self.names.token(*token)));
        let whole = self.tokenizer.encode(text.as_str())?;
        let special = whole.iter().copied().filter(|id| self.names.has_id(*id));
        if special.eq(controls().map(|(_, token)| token.id)) {
            return Ok(whole);
        }
        let mut ids = Vec::new();
        let mut at = 0;
        for (place, token) in controls() {
            let mut between = &text.as_str()[at..place.start];
            if token.takes_space[0] {
                between = between.trim_end();
            }
            self.encode_text(between, &mut ids)?;
            ids.push(token.id);
            at = place.end;
            if token.takes_space[1] {
                let rest = &text.as_str()[at..];
                at += rest.len() - rest.trim_start().len();
            }
        }
        self.encode_text(&text.as_str()[at..], &mut ids)?;
        Ok(ids)
    }

    /// Adds the ids of a text in which no name is a control token.
    fn encode_text(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut new = self.tokenizer.encode(text)?;
        if new.iter().any(|&id| self.names.has_id(id)) {
            new = self.tokenizer.encode_literally(text)?;
        }
        ids.extend(new);
        Ok(())
    }

    /// What ends the model's turn: found by looking at what the template writes after an answer and before the next.
    pub fn turn_ends(&self) -> TurnEnds {
        let user = |content: &str| Message::new(Role::User, content);
        let turns = [user(QUESTION), Message::new(Role::Assistant, ANSWER), user(NEXT)];
        let render = |turns: &[Message]| self.render(turns, true, SystemTime::UNIX_EPOCH);
        let mut ends = TurnEnds::default();
        // After the first question, where the answer begins; a template that refuses this says so when it is used.
        if let Ok(text) = render(&turns[..1])
            && let Some(question) = text.as_str().rfind(QUESTION)
        {
            ends.ids = self.ids_in(&text, question..text.as_str().len());
        }
        // Between the answer and the second question.
        if let Ok(text) = render(&turns)
            && let Some(next) = text.as_str().rfind(NEXT)
            && let Some(answer) = text.as_str()[..next].rfind(ANSWER)
        {
            let between = answer + ANSWER.len()..next;
            let ids = self.ids_in(&text, between.clone());
            let text = text.as_str()[between].trim_end();
            if ids.is_empty() && text.trim_start().chars().count() >= SHORTEST_STOP {
                ends.texts.push(text.to_owned());
            }
            ends.ids.extend(ids);
        }
        ends.ids.sort_unstable();
        ends.ids.dedup();
        ends
    }

    fn ids_in(&self, text: &Text, part: Range<usize>) -> Vec<u32> {
        let inside = text.controls().iter().filter(|(place, _)| part.contains(&place.start));
        inside.map(|(_, token)| self.names.token(*token).id).collect()
    }
}

#[cfg(test)]
mod tests;
