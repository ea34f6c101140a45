//! Conversations to tokens, by the template that a model carries.
//!
//! Templates are Jinja (`jinja.rs`), with what `transformers` gives them: `messages`, each with `role` and `content`,
//! `add_generation_prompt`, `bos_token`, `eos_token`, `raise_exception` and `strftime_now` (in UTC). A file without a
//! template gets a plain one ([`Origin`]).
//!
//! What people write is text: a user who types `<|im_end|>` has typed ten characters and ended nothing. The template's own
//! control tokens are told from these by where they come from, not by how they look ([`Text`]).

use std::ops::Range;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::jinja::{Input, Template, Value};
use crate::packed::Metadata;
use crate::tokenizer::{SpecialToken, Tokenizer};

pub use crate::jinja::Text;

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

/// Steps and bytes that a template may take, beside [`BUDGET_PER_BYTE`] for each byte of the conversation.
const BUDGET: u64 = 1 << 24;
const BUDGET_PER_BYTE: u64 = 64;

/// The shortest text between turns that says that one has ended.
const SHORTEST_STOP: usize = 3;

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

/// A chat template and what it needs to know of its model.
#[derive(Debug)]
pub struct ChatTemplate {
    template: Template,
    origin: Origin,
    bos: Option<String>,
    eos: Option<String>,
    special: Vec<SpecialToken>,
    tokenizer: Tokenizer,
}

impl ChatTemplate {
    /// The template of a model, or the plain one that suits its vocabulary.
    ///
    /// # Errors
    ///
    /// [`Error::Template`](crate::Error::Template) where the file's is none.
    pub fn of(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Self> {
        let special = tokenizer.special_tokens();
        let has = |name: &str| special.iter().any(|token| token.text == name);
        let (source, origin) = match &metadata.chat_template {
            Some(template) => (template.as_str(), Origin::File),
            None if has("<|im_start|>") && has("<|im_end|>") => (CHATML, Origin::ChatMl),
            None => (PLAIN, Origin::Plain),
        };
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
        Ok(Self {
            template: Template::parse(source)?,
            origin,
            bos: name(metadata.bos),
            eos: name(metadata.eos),
            special,
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
    /// [`Error::Template`](crate::Error::Template) where the template fails, takes too much, or refuses the conversation: some
    /// know no system prompt.
    pub fn render(&self, messages: &[Message], answer: bool, now: SystemTime) -> Result<Text> {
        let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        let message = |message: &Message| {
            let role = (Value::written("role"), Value::written(message.role.name()));
            let content = Value::text(Text::given(message.content.as_str()));
            Value::dict(vec![role, (Value::written("content"), content)])
        };
        let list = messages.iter().map(message).collect::<Result<_, _>>().and_then(Value::list);
        // Two levels of nesting are never too deep.
        let list = list.unwrap_or(Value::None);
        let mut variables = vec![
            ("messages", list),
            ("add_generation_prompt", Value::Bool(answer)),
            ("tools", Value::None),
            ("documents", Value::None),
        ];
        for (name, token) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            variables.extend(token.as_ref().map(|token| (name, Value::written(token.as_str()))));
        }
        let budget = BUDGET + BUDGET_PER_BYTE * bytes as u64;
        self.template.render(Input { variables, now, budget })
    }

    /// The ids of a rendered conversation: control tokens where the template wrote their names, text everywhere else.
    ///
    /// Where given text has no such names, these are the ids of the text as `transformers` has them.
    ///
    /// # Errors
    ///
    /// A character for which the vocabulary has neither a token nor a substitute.
    pub fn encode(&self, text: &Text) -> Result<Vec<u32>> {
        let controls = self.controls(text);
        let expected = controls.iter().map(|&(_, token)| self.special[token].id);
        let whole = self.tokenizer.encode(text.as_str())?;
        if whole.iter().copied().filter(|id| self.is_special(*id)).eq(expected) {
            return Ok(whole);
        }
        let mut ids = Vec::new();
        let mut at = 0;
        for (place, token) in &controls {
            let token = &self.special[*token];
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
        if new.iter().any(|&id| self.is_special(id)) {
            new = self.tokenizer.encode_literally(text)?;
        }
        ids.extend(new);
        Ok(())
    }

    fn is_special(&self, id: u32) -> bool {
        self.special.iter().any(|token| token.id == id)
    }

    /// The names of control tokens that the template wrote, from the left, the longest of those that begin together; each with
    /// its place in [`Self::special`].
    fn controls(&self, text: &Text) -> Vec<(Range<usize>, usize)> {
        let mut found = Vec::new();
        for (token, SpecialToken { text: name, .. }) in self.special.iter().enumerate() {
            let places = text.as_str().match_indices(name.as_str());
            let places = places.map(|(start, name)| start..start + name.len());
            found.extend(
                places.filter(|place| !text.is_given(place.clone())).map(|place| (place, token)),
            );
        }
        found.sort_by_key(|(place, _)| (place.start, std::cmp::Reverse(place.end)));
        let mut end = 0;
        found.retain(|(place, _)| {
            let free = place.start >= end;
            if free {
                end = place.end;
            }
            free
        });
        found
    }

    /// What ends the model's turn: found by looking at what the template writes after an answer and before the next.
    pub fn turn_ends(&self) -> TurnEnds {
        let now = SystemTime::UNIX_EPOCH;
        let user = || Message::new(Role::User, "question");
        let turns = [user(), Message::new(Role::Assistant, "answer"), user()];
        let mut ends = TurnEnds::default();
        // After the first question, where the answer begins; a template that refuses this says so when it is used.
        if let Ok(text) = self.render(&turns[..1], true, now)
            && let Some(question) = text.given_ranges().last()
        {
            ends.ids = self.ids_in(&text, question.end..text.as_str().len());
        }
        // Between the answer and the second question.
        if let Ok(text) = self.render(&turns, true, now)
            && let [.., answer, question] = text.given_ranges()
        {
            let between = answer.end..question.start;
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
        let controls = self.controls(text).into_iter();
        let inside = controls.filter(|(place, _)| part.contains(&place.start));
        inside.map(|(_, token)| self.special[token].id).collect()
    }
}

#[cfg(test)]
mod tests;
