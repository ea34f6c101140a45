//! `tern completions`

use anyhow::Result;
use clap_complete::{Shell, generate};
use serde::Serialize;

use crate::Ending;
use crate::terminal::Terminal;

/// Print the completions of a shell, for it to load.
///
/// The directory that they go to must exist: for bash, mkdir -p ~/.local/share/bash-completion/completions makes it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern completions bash > ~/.local/share/bash-completion/completions/tern
  tern completions zsh > ~/.zfunc/_tern
  tern completions fish > ~/.config/fish/completions/tern.fish
  tern completions powershell >> $PROFILE
  tern completions elvish >> ~/.config/elvish/rc.elv")]
pub(crate) struct Arguments {
    /// The shell.
    shell: Shell,
}

#[derive(Serialize)]
struct Report<'a> {
    shell: String,
    script: &'a str,
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut crate::command(), "tern", &mut script);
    let script = String::from_utf8(script)?;
    let report = Report { shell: arguments.shell.to_string(), script: &script };
    terminal.result(&report, &script)?;
    Ok(Ending::Done)
}
