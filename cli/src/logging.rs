//! The log: what the program and its libraries do, line by line, on standard error.

use std::io::{self, Write};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::uptime;

use crate::terminal::Terminal;

/// Filter directives as in `tern_train=debug,wgpu_core=info`; they decide alone, unless `--log-level` is given.
const VARIABLE: &str = "TERN_LOG";

/// How much of our own doings is logged; that of libraries is not, unless `TERN_LOG` asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Starts the log.
///
/// # Errors
///
/// If `TERN_LOG` holds no filter directives.
pub(crate) fn start(level: Option<Level>, terminal: &Terminal) -> Result<()> {
    let directives = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let filter = match (level, directives) {
        (None, Some(text)) => EnvFilter::try_new(&text).with_context(|| {
            format!("{VARIABLE} must hold filter directives such as tern=debug, is `{text}`")
        })?,
        (level, _) => {
            // A prefix of the names of all our crates.
            let level = level.unwrap_or(terminal.default_level());
            EnvFilter::new(format!("off,tern={}", format!("{level:?}").to_lowercase()))
        }
    };
    let terminal = terminal.clone();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(console::colors_enabled_stderr())
        .with_timer(uptime())
        .with_writer(move || Log(terminal.clone()))
        .init();
    Ok(())
}

/// Writes above a progress bar, where there is one.
struct Log(Terminal);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.log(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
