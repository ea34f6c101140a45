//! `tern chat`

mod input;
mod slash;

use std::io::{IsTerminal, stdin, stdout};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use tern_format::chat_template::Origin;
use tern_infer::chat::Conversation;
use tern_infer::generate::{Options, Output, StopReason};
use tern_infer::linear::Engine;

use crate::Ending;
use crate::interrupt::Interrupt;
use crate::model::{ModelOptions, packed_path};
use crate::sampling;
use crate::stream::Stream;
use crate::terminal::{Terminal, thousands};
use input::{Input, Read};
use slash::Next;

/// Talk with a packed model.
///
/// Turns are put together by the chat template that the file carries. A file without one gets ChatML if its vocabulary has
/// <|im_start|> and <|im_end|>, and else turns that begin with User: and Assistant:; it is said which. Names of control tokens
/// in what you type are text and control nothing.
///
/// On a terminal: a line that ends in \ goes on in the next, and """ begins and ends a message of several lines. Ctrl-C stops an
/// answer; at the prompt, twice, it leaves, as Ctrl-D does. /help lists the commands.
///
/// Elsewhere standard input has one message a line, with \ and """ as above and no commands, and the answers go to standard
/// output, with --json as one object a line. The first message that cannot be answered ends the program.
///
/// When the context is full, the oldest turns are no longer shown to the model, which is said; the system prompt stays.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern chat smollm.safetensors
  tern chat smollm.safetensors --system \"Answer in one sentence.\" --temperature 0
  echo \"What is two and two?\" | tern --quiet chat smollm.safetensors --max-tokens 40
  tern --json chat smollm.safetensors < questions.txt > answers.jsonl")]
pub(crate) struct Arguments {
    /// The packed model, or the directory of a run that has one.
    file: PathBuf,
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    sampling: sampling::Arguments,
}

/// What `--json` prints for each answer.
#[derive(Serialize)]
struct Report<'a> {
    message: &'a str,
    /// Old turns that the model is not shown any more, from this answer on.
    dropped_turns: usize,
    #[serde(flatten)]
    output: &'a Output,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
}

struct Chat<'a> {
    conversation: Conversation<'a>,
    options: Options,
    timings: bool,
    interrupt: Option<Interrupt>,
    terminal: &'a Terminal,
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let file = packed_path(&arguments.file)?;
    let model = arguments.model.open(&file, Engine::detect()?, terminal)?;
    let mut conversation = Conversation::new(&model).with_context(|| file.display().to_string())?;
    conversation.set_system(arguments.system.clone());
    let options = arguments.sampling.options(&model.metadata().generation);
    options.sampling.validate()?;
    let is_live = stdin().is_terminal() && stdout().is_terminal() && !terminal.json;
    match conversation.template_origin() {
        Origin::File => {}
        Origin::ChatMl => {
            terminal.say("the file has no chat template: ChatML, since the vocabulary has its tokens");
        }
        Origin::Plain => terminal.say(
            "the file has no chat template: turns begin with User: and Assistant:, which the model may never have seen",
        ),
    }
    let context = thousands(model.config().max_position_embeddings as u64);
    if is_live {
        terminal.say(&format!(
            "{}: a context of {context} tokens. /help lists the commands, Ctrl-D leaves.",
            file.display()
        ));
    }
    let timings = arguments.sampling.timings || terminal.is_verbose();
    let interrupt = is_live.then(Interrupt::catch);
    let mut chat = Chat { conversation, options, timings, interrupt, terminal };
    if is_live {
        chat.live()?
    } else {
        chat.piped()?
    }
    Ok(Ending::Done)
}

impl Chat<'_> {
    /// At a terminal: errors are told, and the conversation goes on.
    fn live(&mut self) -> Result<()> {
        let mut input = Input::editor()?;
        let mut is_leaving = false;
        let mut saved = None;
        loop {
            let text = match input.message()? {
                Read::Message(text) => text,
                Read::Interrupted if is_leaving => return Ok(()),
                Read::Interrupted => {
                    is_leaving = true;
                    self.terminal.say("(Ctrl-C again leaves, and so do Ctrl-D and /quit)");
                    continue;
                }
                Read::End => return Ok(()),
            };
            is_leaving = false;
            let done = match slash::parse(&text) {
                None => self.say(&text),
                Some(command) => command.and_then(|command| {
                    slash::run(&command, &mut self.conversation, &mut saved, self.terminal)
                }),
            };
            match done {
                Ok(Next::Leave) => return Ok(()),
                // Air between turns.
                Ok(Next::Stay) => self.terminal.out("\n")?,
                // Whoever is gone is told nothing.
                Err(error) if crate::terminal::is_broken_pipe(&error) => return Err(error),
                Err(error) => self.terminal.error(&error),
            }
        }
    }

    /// From a file or a pipe: the first error ends it.
    fn piped(&mut self) -> Result<()> {
        let mut input = Input::plain();
        while let Read::Message(text) = input.message()? {
            self.say(&text).with_context(|| format!("standard input, line {}", input.line()))?;
        }
        Ok(())
    }

    /// Shows the answer to a message.
    fn say(&mut self, message: &str) -> Result<Next> {
        let Self { conversation, options, interrupt, terminal, .. } = self;
        let prompt = conversation.ask(message, options.max_tokens)?;
        match prompt.dropped_turns {
            0 => {}
            1 => terminal
                .say("(the context is full: the oldest turn is no longer shown to the model)"),
            n => terminal.say(&format!(
                "(the context is full: the oldest {n} turns are no longer shown to the model)"
            )),
        }
        if let Some(interrupt) = &interrupt {
            interrupt.forget();
        }
        let is_cancelled = || interrupt.as_ref().is_some_and(Interrupt::is_pressed);
        if terminal.json {
            let go_on = |_: &str| ControlFlow::Continue(());
            let mut output = conversation.answer(&prompt, options, &is_cancelled, go_on)?;
            output.text = output.text.trim().to_owned();
            let report = Report {
                message,
                dropped_turns: prompt.dropped_turns,
                prefill_tokens_per_second: output.prefill_tokens_per_second(),
                decode_tokens_per_second: output.decode_tokens_per_second(),
                output: &output,
            };
            terminal.result(&report, "")?;
            return Ok(Next::Stay);
        }
        let mut out = Stream::new();
        let mut has_begun = false;
        let output = conversation.answer(&prompt, options, &is_cancelled, |piece| {
            // A template may leave the space before an answer to the model.
            let piece = if has_begun { piece } else { piece.trim_start() };
            has_begun |= !piece.is_empty();
            out.write(piece)
        });
        if !(has_begun && out.ends_line()) {
            let _ = out.write("\n");
        }
        out.finish()?;
        self.explain(&output?, has_begun);
        Ok(Next::Stay)
    }

    /// Says why an answer ended, where that is not its own end, and how fast it was, if asked.
    fn explain(&self, output: &Output, has_begun: bool) {
        let written = output.ids.len();
        match &output.stop_reason {
            StopReason::Cancelled => self.terminal.say("(stopped)"),
            StopReason::MaxTokens => self
                .terminal
                .say(&format!("(cut after {written} tokens; --max-tokens N sets how many)")),
            StopReason::ContextFull => self.terminal.say("(cut: the context is full)"),
            StopReason::Eos | StopReason::StopString(_) if !has_begun => {
                self.terminal.say("(the model has nothing to say)");
            }
            StopReason::Eos | StopReason::StopString(_) => {}
        }
        if self.timings {
            self.terminal.asked(&format!("({})", sampling::timings(output)));
        }
    }
}
