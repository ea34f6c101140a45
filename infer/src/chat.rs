//! A conversation with a model.

use std::ops::ControlFlow;
use std::time::SystemTime;

use tern_format::chat_template::{ChatTemplate, Message, Origin, Role, TurnEnds};

use crate::clock;
use crate::decoder::Model;
use crate::error::{Error, Result};
use crate::generate::{Context, Generator, Options, Output, StopReason};

/// What was said, and what the model still has of it in its cache.
///
/// Each question is rendered with all that came before, by the model's chat template. Where its ids go on from those in the
/// cache, only the new ones are read; else all after the first that differs.
#[derive(Debug)]
pub struct Conversation<'a> {
    model: &'a Model,
    generator: Generator<'a>,
    template: ChatTemplate,
    ends: TurnEnds,
    system: Option<String>,
    /// Questions and answers in turn, from the first question on.
    messages: Vec<Message>,
    /// How many of them the model is not shown any more.
    forgotten: usize,
    context: Context,
    /// What templates take for today: one day for a conversation, so that its beginning stays what it is.
    began: SystemTime,
    /// Answers so far: each has random numbers of its own.
    answers: u64,
}

/// A question that is ready to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    ids: Vec<u32>,
    /// Turns, each a question and its answer, that were dropped for this question: the context was full.
    pub dropped_turns: usize,
}

impl<'a> Conversation<'a> {
    /// Nothing said yet.
    ///
    /// # Errors
    ///
    /// A tokenizer that does not fit the model, a chat template that is none.
    pub fn new(model: &'a Model) -> Result<Self> {
        let generator = Generator::new(model)?;
        let template = ChatTemplate::of(model.metadata(), generator.tokenizer())?;
        Ok(Self {
            model,
            ends: template.turn_ends(),
            context: generator.context(),
            generator,
            template,
            system: None,
            messages: Vec::new(),
            forgotten: 0,
            began: clock::now(),
            answers: 0,
        })
    }

    /// Where the chat template comes from.
    pub fn template_origin(&self) -> Origin {
        self.template.origin()
    }

    /// What stands before the conversation.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Puts something else before the conversation.
    pub fn set_system(&mut self, system: Option<String>) {
        self.system = system;
    }

    /// All that was said, the system prompt first.
    pub fn messages(&self) -> Vec<Message> {
        self.with_system(&self.messages)
    }

    /// Forgets what was said, but for the system prompt.
    pub fn reset(&mut self) {
        self.messages.clear();
        self.forgotten = 0;
        self.context.clear();
    }

    /// Takes a question. Where it and the room for an answer do not fit the context, the oldest turns are dropped, but never
    /// the system prompt; [`Self::messages`] still has them.
    ///
    /// The room is `max_tokens`, or a quarter of the context if that is less.
    ///
    /// # Errors
    ///
    /// [`Error::Message`] for a question that does not fit alone, and whatever the template refuses; the conversation is then
    /// as it was.
    pub fn ask(&mut self, question: &str, max_tokens: usize) -> Result<Prompt> {
        let most = self.model.config().max_position_embeddings;
        let room = max_tokens.min(most / 4).max(1);
        let mut messages = self.messages[self.forgotten..].to_vec();
        messages.push(Message::new(Role::User, question));
        let mut dropped_turns = 0;
        let ids = loop {
            let text = self.template.render(&self.with_system(&messages), true, self.began)?;
            let ids = self.template.encode(&text)?;
            if ids.len() + room <= most {
                break ids;
            }
            let questions = messages.iter().enumerate().filter(|(_, it)| it.role == Role::User);
            let Some((next, _)) = questions.into_iter().nth(1) else {
                return Err(Error::Message { tokens: ids.len(), room, most });
            };
            messages.drain(..next);
            dropped_turns += 1;
        };
        if ids.is_empty() {
            return Err(Error::NoTokens);
        }
        self.messages.push(Message::new(Role::User, question));
        self.forgotten = self.messages.len() - messages.len();
        Ok(Prompt { ids, dropped_turns })
    }

    /// Answers the question asked last, whose prompt this must be. The answer ends where the model ends its turn; if it is cancelled, what there is of it
    /// counts as said, and nothing takes the question back too.
    ///
    /// # Errors
    ///
    /// As [`Generator::generate_in`]; the question is then taken back.
    pub fn answer(
        &mut self,
        prompt: &Prompt,
        options: &Options,
        cancelled: &dyn Fn() -> bool,
        on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Output> {
        let mut options = options.clone();
        options.stop.extend(self.ends.texts.iter().cloned());
        options.stop_ids.extend(&self.ends.ids);
        let seed = &mut options.sampling.seed;
        *seed = seed.wrapping_add(self.answers);
        let answered = self.generator.generate_in(
            &mut self.context,
            &prompt.ids,
            &options,
            cancelled,
            on_text,
        );
        let spoken = answered.as_ref().ok().filter(|output| {
            output.stop_reason != StopReason::Cancelled || !output.text.trim().is_empty()
        });
        match spoken {
            Some(output) => {
                self.answers += 1;
                self.messages.push(Message::new(Role::Assistant, output.text.trim()));
            }
            None => {
                self.messages.pop();
            }
        }
        answered
    }

    fn with_system(&self, messages: &[Message]) -> Vec<Message> {
        let system = self.system.iter().map(|system| Message::new(Role::System, system.as_str()));
        system.chain(messages.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests;
