//! The `tern` command: arguments, progress, and the only place that prints.
#![forbid(unsafe_code)]

#[cfg(feature = "train")]
mod chart;
mod commands;
mod encoding;
mod help;
#[cfg(feature = "train")]
mod history;
mod interrupt;
mod logging;
mod model;
mod overwrite;
#[cfg(feature = "train")]
mod ranks;
mod sampling;
mod stream;
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use commands::{
    bench, chat, completions, data, devices, export, generate, import, inspect, man, verify,
};
#[cfg(feature = "train")]
use commands::{config, plot, quickstart, report, sweep, train};
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
    max_term_width = 100,
    after_help = "Begin:\n  tern quickstart          four minutes from nothing to a story\n  \
                  tern COMMAND --help      every option, with examples\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 3 verified and not passed, 130 interrupted."
)]
struct Arguments {
    /// Print one JSON object on standard output instead of text, and no progress; warnings and errors stay text on
    /// standard error.
    #[arg(long, global = true, help_heading = "General options")]
    json: bool,
    /// Print nothing but results and errors.
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        help_heading = "General options"
    )]
    quiet: bool,
    /// Say more: settings, tables, every checkpoint, timings, and the log at `debug`.
    #[arg(short, long, global = true, help_heading = "General options")]
    verbose: bool,
    /// How much to log on standard error [default: warn]. For libraries too, set TERN_LOG to directives such as
    /// tern=debug,wgpu_core=info.
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "General options")]
    log_level: Option<logging::Level>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "train")]
    Quickstart(quickstart::Arguments),
    /// Turn text into tokens, and look at them.
    #[command(
        subcommand,
        after_help = "Examples:\n  tern data prepare my.toml --out runs/text\n  tern data stats runs/text"
    )]
    Data(data::Command),
    #[cfg(feature = "train")]
    Config(config::Arguments),
    #[cfg(feature = "train")]
    Train(train::Arguments),
    #[cfg(feature = "train")]
    Sweep(sweep::Arguments),
    Export(export::Arguments),
    #[cfg(feature = "train")]
    Report(report::Arguments),
    #[cfg(feature = "train")]
    Plot(plot::Arguments),
    Verify(verify::Arguments),
    Generate(generate::Arguments),
    Chat(chat::Arguments),
    Bench(bench::Arguments),
    Import(import::Arguments),
    Inspect(inspect::Arguments),
    Devices(devices::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

/// Lets a write that passes the limit on the size of a file (`ulimit -f`) fail with what the system says: the signal
/// that comes with it would end the program without a word, and its temporary files would stay.
fn outlive_the_file_size_limit() {
    #[cfg(unix)]
    {
        use signal_hook::{consts::SIGXFSZ, flag};
        // A system that takes no handler is left as it is.
        let _ = flag::register(SIGXFSZ, std::sync::Arc::default());
    }
}

fn main() -> ExitCode {
    outlive_the_file_size_limit();
    let arguments =
        Arguments::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit());
    let terminal = Terminal::new(arguments.json, arguments.quiet, arguments.verbose);
    let ending = logging::start(arguments.log_level, &terminal)
        .and_then(|()| run(&arguments.command, &terminal));
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

/// The command line as a whole.
fn command() -> clap::Command {
    help::arrange(Arguments::command().version(&*version().leak()))
}

fn run(command: &Command, terminal: &Terminal) -> anyhow::Result<Ending> {
    match command {
        #[cfg(feature = "train")]
        Command::Quickstart(arguments) => quickstart::run(arguments, terminal),
        Command::Data(command) => data::run(command, terminal),
        #[cfg(feature = "train")]
        Command::Config(arguments) => config::run(arguments, terminal),
        #[cfg(feature = "train")]
        Command::Train(arguments) => train::run(arguments, terminal),
        #[cfg(feature = "train")]
        Command::Sweep(arguments) => sweep::run(arguments, terminal),
        Command::Export(arguments) => export::run(arguments, terminal),
        #[cfg(feature = "train")]
        Command::Report(arguments) => report::run(arguments, terminal),
        #[cfg(feature = "train")]
        Command::Plot(arguments) => plot::run(arguments, terminal),
        Command::Verify(arguments) => verify::run(arguments, terminal),
        Command::Generate(arguments) => generate::run(arguments, terminal),
        Command::Chat(arguments) => chat::run(arguments, terminal),
        Command::Bench(arguments) => bench::run(arguments, terminal),
        Command::Import(arguments) => import::run(arguments, terminal),
        Command::Inspect(arguments) => inspect::run(arguments, terminal),
        Command::Devices(arguments) => devices::run(arguments, terminal),
        Command::Completions(arguments) => completions::run(arguments, terminal),
        Command::Man(arguments) => man::run(arguments, terminal),
    }
}

/// `0.1.0 (commit 0123456789, kernel avx2)`; no kernel where TERN_KERNEL names none, which commands that need one say.
fn version() -> String {
    let kernel = tern_kernels::ternary::Kernel::detect()
        .map_or_else(|_| String::new(), |kernel| format!(", kernel {}", kernel.name()));
    format!("{} (commit {}{kernel})", env!("CARGO_PKG_VERSION"), env!("TERN_COMMIT"))
}
