//! `tern quickstart`

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use tern_datasets::stories::{Split, stories};
use tern_format::packed::Encoding;
use tern_infer::Model;
use tern_infer::generate::{Generator, Options};
use tern_infer::loss::mean_loss;
use tern_infer::verify::{Verdict, verify};
use tern_train::checkpoint;
use tern_train::config::RunConfig;
use tern_train::directory::RunDirectory;
use tern_train::plan::Plan;
use tern_train::ranks::Alone;

use crate::Ending;
use crate::commands::data::prepare::prepare_data;
use crate::commands::export::checkpoint::{describe, export};
use crate::commands::train::{Session, Show, interruptions};
use crate::commands::verify::summary;
use crate::terminal::{Terminal, duration, thousands};

/// The run, as a file of the repository that the binary carries.
const CONFIG: &str = include_str!("../../../configs/quickstart.toml");

/// Train, export and verify a small model on embedded stories, and let it tell one.
///
/// Takes about four minutes on two cores. Ctrl-C saves; the same command goes on.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern quickstart --out runs/quickstart --seed 2")]
pub(crate) struct Arguments {
    /// Where to write everything.
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    out: PathBuf,
    /// Seed of the story at the end.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Optimizer steps, if not those of configs/quickstart.toml.
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Where to compute; `tern devices` lists what there is.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: String,
}

#[derive(Serialize)]
struct Report<'a> {
    out: &'a Path,
    model: &'a Path,
    training_seconds: f64,
    val_loss: Option<f64>,
    held_out: Grammar,
    verdict: Verdict,
    story: &'a str,
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let overrides: Vec<String> =
        arguments.steps.iter().map(|steps| format!("train.steps={steps}")).collect();
    let config = RunConfig::parse(CONFIG, Path::new("configs/quickstart.toml"), &overrides)?;
    tern_model::device::find(&arguments.device)?;
    let interrupted = interruptions()?;
    let directory = RunDirectory::new(&arguments.out);
    // Before the data are made: another run in this directory is refused at once.
    let resume = directory.has_run();
    directory
        .check(&config, resume)
        .context("repeat the --steps of the run that is there, or choose another --out")?;
    let _lock = directory.lock()?;

    let plan = Plan::new(&config);
    terminal.say(&format!(
        "A ternary model of {} parameters learns {} tokens of small stories.",
        thousands(plan.parameters),
        thousands(plan.tokens)
    ));
    let data = prepare_data(&config.data, Path::new(""), &directory.data(), terminal)?;
    let session = Session {
        config,
        directory,
        data,
        device: arguments.device.clone(),
        stop_at: None,
        resume: true,
    };
    let began = Instant::now();
    let outcome = session.train(Show::Bar, terminal, &interrupted, &Alone)?;
    let training_seconds = began.elapsed().as_secs_f64();
    if !outcome.finished && interrupted.load(Ordering::Relaxed) {
        terminal.say(&format!(
            "saved after step {}; the same command goes on: tern quickstart --out {}",
            outcome.step,
            arguments.out.display()
        ));
        return Ok(Ending::Interrupted);
    }
    terminal.say(&format!("trained in {}", duration(training_seconds)));

    let checkpoints = session.directory.checkpoints();
    let best = checkpoint::best(&checkpoints, &mut |error| terminal.warn(&error.to_string()))?;
    let exported = export(&session, best, session.directory.model(), Encoding::T2)?;
    terminal.say(&format!("exported {}", describe(&exported).trim_end()));
    let report = verify(&exported.path)?;
    terminal.say(&format!("verified: {}", summary(&report)));

    let model = Model::open(&exported.path)?;
    let grammar = against_the_grammar(&model, session.config.data.stories_seed)?;
    terminal.say(&format!(
        "on {HELD_OUT} whole held-out stories: loss {:.3} nats/token, of which the stories' own entropy is {:.3}",
        grammar.loss, grammar.entropy
    ));
    let defaults = &model.metadata().generation;
    let mut options = Options::from(defaults);
    options.sampling.seed = arguments.seed;
    terminal.say("\nA story, written by the packed file:\n");
    let generator = Generator::new(&model)?;
    let text = generator.generate(&defaults.prompt, &options, |_| ControlFlow::Continue(()))?.text;
    let story = format!("{}{text}", defaults.prompt);
    let report = Report {
        out: &arguments.out,
        model: &exported.path,
        training_seconds,
        val_loss: exported.val_loss,
        held_out: grammar,
        verdict: report.verdict,
        story: story.trim(),
    };
    terminal.result(&report, &format!("{}\n", story.trim()))?;
    terminal.say(&where_everything_is(&session.directory));
    Ok(Ending::Done)
}

/// Stories that the packed model is measured on at the end.
const HELD_OUT: usize = 100;

/// A loss beside the least that any model could have.
#[derive(Serialize)]
struct Grammar {
    /// Mean over whole held-out stories, nats per token.
    loss: f64,
    /// The information of the choices behind the same stories, nats per token.
    entropy: f64,
}

/// Measures the packed model on whole stories that training never drew, and counts what the generator put into them.
fn against_the_grammar(model: &Model, seed: u64) -> Result<Grammar> {
    let generator = Generator::new(model)?;
    let eos = model.metadata().eos;
    let (mut windows, mut bits, mut predictions) = (Vec::new(), 0.0, 0);
    for story in stories(seed, Split::Valid).take(HELD_OUT) {
        let mut ids = generator.encode(&story.text)?;
        ids.extend(eos);
        predictions += ids.len() - 1;
        bits += story.bits;
        windows.push(ids);
    }
    let entropy = bits * std::f64::consts::LN_2 / predictions as f64;
    Ok(Grammar { loss: mean_loss(model, &windows)?, entropy })
}

fn where_everything_is(directory: &RunDirectory) -> String {
    let mut text = String::from("\nWritten:\n");
    for (path, what) in [
        (directory.model(), "the packed model"),
        (directory.config(), "the run's configuration"),
        (directory.data(), "tokenizer and tokens"),
        (directory.checkpoints(), "the best and the latest checkpoints"),
        (directory.metrics(), "loss by step"),
        (directory.timings(), "seconds by step"),
        (directory.samples(), "stories during training"),
    ] {
        if path.exists() {
            text.push_str(&format!("  {:<44}{what}\n", path.display().to_string()));
        }
    }
    let model = directory.model();
    text.push_str(&format!(
        "\nNext:\n  tern generate {} --seed 2\n  tern verify {}",
        model.display(),
        model.display()
    ));
    text
}
