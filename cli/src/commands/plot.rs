//! `tern plot`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tern_format::atomic::write_atomically;
use tern_format::regular_file::read_small_text;
use tern_train::directory::RunDirectory;

use crate::Ending;
use crate::chart::{Chart, Mark, Point, Series, color, smooth};
use crate::history::History;
use crate::overwrite;
use crate::terminal::{Terminal, bytes};

/// Pixels of an SVG; a PNG has twice as many each way.
const SIZE: (u32, u32) = (960, 540);

/// More runs than this, and the noise behind their smoothed lines would hide them.
const MOST_WITH_NOISE: usize = 3;

/// Draw the curves of one or more runs into one picture.
///
/// `loss` draws the training loss as a line and the validation loss as a line with dots. Runs may still be going on. The
/// directory of a sweep stands for its runs.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern plot runs/quickstart
  tern plot runs/ternary runs/float --x tokens --log --out loss.png
  tern plot runs/ternary --metric zeros --out zeros.svg")]
pub(crate) struct Arguments {
    /// Directories of runs, or of sweeps.
    #[arg(required = true, value_name = "DIR")]
    runs: Vec<PathBuf>,
    /// What to draw.
    #[arg(long, value_enum, default_value_t = Metric::Loss)]
    metric: Metric,
    /// What to draw it over.
    #[arg(long, value_enum, default_value_t = Over::Step)]
    x: Over,
    /// Draw means over so many points, half on either side; 1 draws every point as it is [default: a hundredth of the longest run].
    #[arg(long, value_name = "POINTS", value_parser = clap::value_parser!(u32).range(1..))]
    smooth: Option<u32>,
    /// A logarithmic vertical axis.
    #[arg(long)]
    log: bool,
    /// A logarithmic horizontal axis.
    #[arg(long)]
    log_x: bool,
    /// The file to write, .svg or .png [default: METRIC.svg].
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What a run measures over its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
enum Metric {
    /// Loss on the training batches and on the validation set, nats per token.
    Loss,
    /// Loss on the validation set alone, nats per token.
    ValLoss,
    /// Norm of the gradient before clipping.
    GradNorm,
    /// Learning rate.
    Lr,
    /// Tokens per second of training.
    TokensPerSecond,
    /// Share of zeros among the trits.
    Zeros,
}

impl Metric {
    fn word(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }

    fn label(self) -> &'static str {
        match self {
            Self::Loss => "loss, nats per token",
            Self::ValLoss => "validation loss, nats per token",
            Self::GradNorm => "gradient norm",
            Self::Lr => "learning rate",
            Self::TokensPerSecond => "tokens per second",
            Self::Zeros => "share of zero trits",
        }
    }

    /// Why a run may lack it.
    fn missing_because(self) -> &'static str {
        match self {
            Self::ValLoss => "no validation yet: see train.eval_every",
            Self::Zeros => "weights.jsonl has none; a float model has no trits",
            _ => "no step was taken yet",
        }
    }

    /// `(step, value)`
    fn points(self, history: &History) -> Vec<Point> {
        match self {
            Self::Loss => history.points(|line| line.loss),
            Self::ValLoss => history.points(|line| line.val_loss),
            Self::GradNorm => history.points(|line| line.grad_norm),
            Self::Lr => history.points(|line| Some(line.lr)),
            Self::TokensPerSecond => history
                .timings
                .iter()
                .map(|line| (line.step as f64, line.tokens_per_second))
                .collect(),
            Self::Zeros => {
                history.weights.iter().map(|line| (line.step as f64, line.zeros)).collect()
            }
        }
    }

    /// Whether there is a value at every step, with noise on it.
    fn is_noisy(self) -> bool {
        matches!(self, Self::Loss | Self::GradNorm | Self::TokensPerSecond)
    }
}

/// The horizontal axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Over {
    /// Optimizer steps.
    Step,
    /// Tokens learned from.
    Tokens,
    /// Seconds of training, all processes of the run together.
    Seconds,
}

impl Over {
    fn label(self) -> &'static str {
        match self {
            Self::Step => "optimizer step",
            Self::Tokens => "tokens",
            Self::Seconds => "seconds of training",
        }
    }

    /// Moves points from steps to this axis; a step without a place on it is left out.
    fn place(self, points: Vec<Point>, history: &History) -> Vec<Point> {
        let places: BTreeMap<u64, f64> = match self {
            Self::Step => return points,
            Self::Tokens => {
                history.metrics.iter().map(|line| (line.step, line.tokens as f64)).collect()
            }
            Self::Seconds => history.seconds(),
        };
        let place = |(step, y): Point| Some((*places.get(&(step as u64))?, y));
        points.into_iter().filter_map(place).collect()
    }
}

#[derive(Serialize)]
struct Report {
    out: PathBuf,
    metric: Metric,
    bytes: usize,
    runs: Vec<Drawn>,
}

/// One run of the picture.
#[derive(Serialize)]
struct Drawn {
    run: PathBuf,
    points: usize,
    last: Option<f64>,
}

/// The largest `sweep.json` that is read, in bytes; a run has some hundred of them.
const MOST_SWEEP_BYTES: u64 = 16 << 20;

/// The runs of a sweep that have begun, in the order of its table; of any other directory itself.
fn runs_of(path: &Path) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Sweep {
        runs: Vec<Run>,
    }
    #[derive(Deserialize)]
    struct Run {
        name: PathBuf,
    }
    let table = path.join("sweep.json");
    if RunDirectory::new(path).has_run() || !table.exists() {
        return Ok(vec![path.to_owned()]);
    }
    let text = read_small_text(&table, MOST_SWEEP_BYTES)?;
    let sweep: Sweep = serde_json::from_str(&text).with_context(|| table.display().to_string())?;
    // A name from a file must not lead out of the directory.
    let names = sweep.runs.iter().filter_map(|run| run.name.file_name());
    let runs: Vec<PathBuf> = names.map(|name| path.join(name)).collect();
    let begun: Vec<PathBuf> =
        runs.into_iter().filter(|run| RunDirectory::new(run).metrics().exists()).collect();
    if begun.is_empty() {
        bail!("{}: no run of this sweep has begun", table.display());
    }
    Ok(begun)
}

pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let metric = arguments.metric;
    let out = arguments.out.clone().unwrap_or_else(|| format!("{}.svg", metric.word()).into());
    let kind = Kind::of(&out)?;
    let mut histories = Vec::new();
    let mut runs = Vec::new();
    for path in &arguments.runs {
        runs.extend(runs_of(path)?);
    }
    for path in &runs {
        let history = History::read(path)?;
        for damage in &history.damage {
            terminal.warn(damage);
        }
        histories.push(history);
    }
    let curves: Vec<Vec<Point>> = histories
        .iter()
        .map(|history| arguments.x.place(metric.points(history), history))
        .collect();
    let longest = curves.iter().map(Vec::len).max().unwrap_or(0);
    let automatic = if metric.is_noisy() { longest / 100 } else { 1 };
    let window = arguments.smooth.map_or(automatic, |window| window as usize).max(1);

    let mut series = Vec::new();
    let mut drawn = Vec::new();
    let names = names(&runs, &histories);
    for (index, ((history, points), name)) in histories.iter().zip(curves).zip(names).enumerate() {
        let run = runs[index].clone();
        drawn.push(Drawn { run, points: points.len(), last: points.last().map(|p| p.1) });
        let color = color(index);
        // A run alone has its validation in a colour of its own; several have a colour each.
        let validation_color = if histories.len() == 1 { self::color(1) } else { color };
        let validation = match metric {
            Metric::Loss => arguments.x.place(Metric::ValLoss.points(history), history),
            _ => Vec::new(),
        };
        if points.is_empty() && validation.is_empty() {
            terminal.warn(&format!(
                "{}: no point of {} to draw: {}",
                history.directory.path().display(),
                metric.word(),
                metric.missing_because()
            ));
            continue;
        }
        // Among several runs the validation stands out, where there is one.
        let behind = histories.len() > 1 && !validation.is_empty();
        if window > 1 && !behind && histories.len() <= MOST_WITH_NOISE {
            series.push(Series { label: None, points: points.clone(), color, mark: Mark::Faint });
        }
        let mark = match metric {
            _ if behind => Mark::Faint,
            Metric::ValLoss | Metric::Zeros => Mark::Dotted,
            _ => Mark::Line,
        };
        let points = smooth(&points, window);
        series.push(Series { label: Some(name.clone()), points, color, mark });
        if !validation.is_empty() {
            series.push(Series {
                label: Some(format!("{name}, validation")),
                points: validation,
                color: validation_color,
                mark: Mark::Dotted,
            });
        }
    }
    let mut y_label = metric.label().to_owned();
    if window > 1 {
        y_label.push_str(&format!(" (mean of {window} points)"));
    }
    let chart = Chart {
        x_label: arguments.x.label().into(),
        y_label,
        log_x: arguments.log_x,
        log_y: arguments.log,
        series,
    };
    if !chart.has_points() {
        let axis = if arguments.log || arguments.log_x { " on a logarithmic axis" } else { "" };
        bail!("nothing to draw{axis}: no run has a point of {}", metric.word());
    }
    let file = match kind {
        Kind::Svg => chart.svg(SIZE, 1)?.into_bytes(),
        Kind::Png => chart.png(SIZE, 2)?,
    };
    let (beginning, what) = match kind {
        Kind::Svg => (&b"<svg"[..], "SVG picture"),
        Kind::Png => (&b"\x89PNG"[..], "PNG picture"),
    };
    overwrite::only_what_begins_with(&out, beginning, what)?;
    write_atomically(&out, |target| target.write_all(&file))?;
    let text = format!("{} ({})\n", out.display(), bytes(file.len() as u64));
    terminal.result(&Report { out, metric, bytes: file.len(), runs: drawn }, &text)?;
    Ok(Ending::Done)
}

/// The kinds of pictures.
enum Kind {
    Svg,
    Png,
}

impl Kind {
    fn of(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension.map(str::to_lowercase).as_deref() {
            Some("svg") => Ok(Self::Svg),
            Some("png") => Ok(Self::Png),
            _ => bail!("--out must end in .svg or .png, is {}", path.display()),
        }
    }
}

/// What the legend calls the runs: the names of their directories, or the paths where two have the same name.
fn names(paths: &[PathBuf], histories: &[History]) -> Vec<String> {
    let names: Vec<String> = histories.iter().map(History::name).collect();
    let unique = |name: &String| names.iter().filter(|other| *other == name).count() == 1;
    let path = |path: &PathBuf| path.display().to_string();
    names.iter().zip(paths).map(|(n, p)| if unique(n) { n.clone() } else { path(p) }).collect()
}
