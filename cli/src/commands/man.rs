//! `tern man`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Command;
use clap_mangen::Man;
use serde::Serialize;
use tern_format::atomic::write_atomically;

use crate::Ending;
use crate::terminal::Terminal;

/// Write the manual: one page per command, as `man` reads them.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern man --out ~/.local/share/man/man1 && man tern-train
  tern man --out pages && man -l pages/tern.1")]
pub(crate) struct Arguments {
    /// Directory to write the pages to; it is made if need be.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report<'a> {
    out: &'a Path,
    pages: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let out = &arguments.out;
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let mut command = crate::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    write(&command, out, &mut pages)?;
    let text = format!("{} pages in {}\n", pages.len(), out.display());
    terminal.result(&Report { out, pages }, &text)?;
    Ok(Ending::Done)
}

/// Writes the page of a command and those of its subcommands.
fn write(command: &Command, out: &Path, pages: &mut Vec<String>) -> Result<()> {
    let page = Man::new(command.clone());
    let name = page.get_filename();
    let mut text = Vec::new();
    page.render(&mut text)?;
    let text = String::from_utf8(text)?;
    write_atomically(&out.join(&name), |file| file.write_all(examples(&text).as_bytes()))?;
    pages.push(name);
    command.get_subcommands().try_for_each(|inner| write(inner, out, pages))
}

/// Gives what follows the options its own heading, and keeps its lines as they are.
fn examples(page: &str) -> String {
    const EXTRA: &str = ".SH EXTRA\n";
    let Some((before, after)) = page.split_once(EXTRA) else { return page.into() };
    let (extra, rest) = match after.find(".SH ") {
        Some(end) => after.split_at(end),
        None => (after, ""),
    };
    let (heading, extra) = match extra.strip_prefix("Examples:\n") {
        Some(examples) => ("EXAMPLES", examples),
        None => ("NOTES", extra),
    };
    format!("{before}.SH {heading}\n.nf\n{extra}.fi\n{rest}")
}
