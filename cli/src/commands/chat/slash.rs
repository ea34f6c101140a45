//! What can be typed instead of a message.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use serde::Serialize;
use tern_format::atomic::write_atomically;
use tern_format::chat_template::Message;
use tern_infer::chat::Conversation;

use crate::terminal::Terminal;

const HELP: &str = "\
/help           this list
/reset          begin a new conversation; the system prompt stays
/system TEXT    what the model is told first; without a text shows it, /system off removes it
/save FILE      write the conversation to a file, as JSON
/quit           leave, as Ctrl-D does
A line that ends in \\ goes on in the next; \"\"\" begins and ends a message of several lines.
Ctrl-C stops an answer. A space before a / makes it a message.";

/// What follows a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Stay,
    Leave,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Reset,
    ShowSystem,
    SetSystem(Option<String>),
    Save(PathBuf),
    Quit,
}

/// The conversation in the form that trainers of chat models read.
#[derive(Serialize)]
struct Saved {
    messages: Vec<Message>,
}

/// What a line asks for; none if it is a message.
pub(super) fn parse(line: &str) -> Option<Result<Command>> {
    let command = line.strip_prefix('/')?;
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    Some(match (name, rest) {
        ("help" | "?", "") => Ok(Command::Help),
        ("reset", "") => Ok(Command::Reset),
        ("system", "") => Ok(Command::ShowSystem),
        ("system", "off") => Ok(Command::SetSystem(None)),
        ("system", text) => Ok(Command::SetSystem(Some(text.into()))),
        ("save", "") => Err(anyhow!("/save needs the name of a file")),
        ("save", file) => Ok(Command::Save(file.into())),
        ("quit" | "exit" | "bye", "") => Ok(Command::Quit),
        ("help" | "reset" | "quit", _) => Err(anyhow!("/{name} takes nothing after it")),
        _ => Err(anyhow!(
            "there is no command /{name}; /help lists them, and a space before it makes it a message"
        )),
    })
}

/// Does what a command says. `saved` is the file that the conversation was saved to before.
pub(super) fn run(
    command: &Command,
    conversation: &mut Conversation<'_>,
    saved: &mut Option<PathBuf>,
    terminal: &Terminal,
) -> Result<Next> {
    match command {
        Command::Help => terminal.out(&format!("{HELP}\n"))?,
        Command::Reset => {
            conversation.reset();
            terminal.say("(a new conversation)");
        }
        Command::ShowSystem => match conversation.system() {
            Some(system) => terminal.out(&format!("{system}\n"))?,
            None => terminal.say("(there is no system prompt)"),
        },
        Command::SetSystem(system) => {
            conversation.set_system(system.clone());
            let done = if system.is_some() { "set" } else { "removed" };
            terminal.say(&format!("(system prompt {done}; the conversation goes on)"));
        }
        Command::Save(file) => {
            save(conversation, file, saved.as_deref())?;
            terminal.say(&format!("(saved to {})", file.display()));
            *saved = Some(file.clone());
        }
        Command::Quit => return Ok(Next::Leave),
    }
    Ok(Next::Stay)
}

fn save(conversation: &Conversation<'_>, file: &Path, before: Option<&Path>) -> Result<()> {
    if file.exists() && before != Some(file) {
        bail!("{}: is there already; choose another name", file.display());
    }
    let saved = Saved { messages: conversation.messages() };
    let text = serde_json::to_string_pretty(&saved)? + "\n";
    write_atomically(file, |out| out.write_all(text.as_bytes()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_begins_with_a_slash_is_a_command_or_an_error() {
        let parsed = |line| parse(line).map(|command| command.map_err(|error| error.to_string()));
        for message in ["hello", " /help", "", "a /quit"] {
            assert_eq!(parsed(message), None);
        }
        for (line, command) in [
            ("/help", Command::Help),
            ("/reset ", Command::Reset),
            ("/system", Command::ShowSystem),
            ("/system  Be kind. ", Command::SetSystem(Some("Be kind.".into()))),
            ("/system off", Command::SetSystem(None)),
            ("/save my talk.json", Command::Save("my talk.json".into())),
            ("/exit", Command::Quit),
        ] {
            assert_eq!(parsed(line), Some(Ok(command)), "{line}");
        }
        for (line, words) in [
            ("/usr/bin", "there is no command /usr/bin"),
            ("/", "there is no command /"),
            ("/save", "the name of a file"),
            ("/reset all", "takes nothing after it"),
        ] {
            assert!(
                parsed(line).is_some_and(|it| it.is_err_and(|error| error.contains(words))),
                "{line}"
            );
        }
    }
}
