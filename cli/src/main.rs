//! The `tern` command: arguments, progress, and the only place that prints.
#![forbid(unsafe_code)]

#[cfg(feature = "train")]
mod chart;
mod commands;
#[cfg(feature = "train")]
mod history;
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use commands::{data, devices, generate, verify};
#[cfg(feature = "train")]
use commands::{export, plot, quickstart, report, train};
use terminal::Terminal;

/// What a command ended with, beside an error.
enum Ending {
    /// Exit code 0.
    Done,
    /// Stopped by Ctrl-C; exit code 130, as shells have it.
    #[cfg(feature = "train")]
    Interrupted,
    /// The verifier does not pass the file; exit code 3.
    Refused,
}

#[derive(Parser)]
#[command(
    name = "tern",
    about = "Train, verify and run ternary (1.58-bit) language models.",
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Begin with `tern quickstart`.\n\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 verified and not \
                  passed, 130 interrupted."
)]
struct Arguments {
    /// Print one JSON object to standard output instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// Print nothing but results and errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more: settings, every checkpoint, timings.
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "train")]
    Quickstart(quickstart::Arguments),
    /// Turn text into tokens, and look at them.
    #[command(subcommand)]
    Data(data::Command),
    #[cfg(feature = "train")]
    Train(train::Arguments),
    #[cfg(feature = "train")]
    Export(export::Arguments),
    #[cfg(feature = "train")]
    Report(report::Arguments),
    #[cfg(feature = "train")]
    Plot(plot::Arguments),
    Verify(verify::Arguments),
    Generate(generate::Arguments),
    Devices(devices::Arguments),
}

fn main() -> ExitCode {
    let command = Arguments::command().version(&*version().leak());
    let arguments =
        Arguments::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let terminal = Terminal::new(arguments.json, arguments.quiet, arguments.verbose);
    let ending = match arguments.command {
        #[cfg(feature = "train")]
        Command::Quickstart(arguments) => quickstart::run(&arguments, &terminal),
        Command::Data(command) => data::run(&command, &terminal),
        #[cfg(feature = "train")]
        Command::Train(arguments) => train::run(&arguments, &terminal),
        #[cfg(feature = "train")]
        Command::Export(arguments) => export::run(&arguments, &terminal),
        #[cfg(feature = "train")]
        Command::Report(arguments) => report::run(&arguments, &terminal),
        #[cfg(feature = "train")]
        Command::Plot(arguments) => plot::run(&arguments, &terminal),
        Command::Verify(arguments) => verify::run(&arguments, &terminal),
        Command::Generate(arguments) => generate::run(&arguments, &terminal),
        Command::Devices(arguments) => devices::run(&arguments, &terminal),
    };
    match ending {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        #[cfg(feature = "train")]
        Ok(Ending::Interrupted) => ExitCode::from(130),
        Ok(Ending::Refused) => ExitCode::from(3),
        // The reader of a pipe may stop reading: `tern generate … | head -1` is no failure.
        Err(error) if terminal::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            terminal.error(&error);
            ExitCode::FAILURE
        }
    }
}

/// `0.1.0 (commit 0123456789, kernel avx2)`
fn version() -> String {
    let kernel = tern_kernels::ternary::Kernel::detect()
        .map_or_else(|error| error.to_string(), |kernel| kernel.name().into());
    format!("{} (commit {}, kernel {kernel})", env!("CARGO_PKG_VERSION"), env!("TERN_COMMIT"))
}
