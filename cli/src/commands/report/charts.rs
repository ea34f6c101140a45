//! The charts of the page, as SVG that its style sheet colours.

use anyhow::Result;
use serde::Serialize;
use tern_train::weights::{Projection, Weights};

use crate::chart::{Chart, Mark, Point, Series, color, ramp, smooth};
use crate::history::History;

/// A chart's size before it is enlarged; labels are legible at this width.
const SIZE: (u32, u32) = (480, 290);
/// Whole pixels are too coarse for the points of a curve.
const SCALE: u32 = 2;

/// A legend of more blocks than this hides the curves.
const MOST_LABELS: usize = 6;

/// A chart of the page.
#[derive(Serialize)]
pub(super) struct Figure {
    title: &'static str,
    note: &'static str,
    svg: String,
}

/// Steps that a noisy curve of so many is averaged over.
pub(super) fn window(steps: usize) -> usize {
    (steps / 100).max(1)
}

/// Every chart that the run has points for.
pub(super) fn figures(history: &History, log_x: bool) -> Result<Vec<Figure>> {
    let losses = history.points(|line| line.loss);
    let window = window(losses.len());
    let mut loss = noisy(losses, window, 0);
    label(&mut loss, "training");
    let validation = history.points(|line| line.val_loss);
    if !validation.is_empty() {
        loss.push(line(Some("validation"), validation, 1, Mark::Dotted));
    }
    let tokens_per_second: Vec<Point> =
        history.timings.iter().map(|line| (line.step as f64, line.tokens_per_second)).collect();
    let candidates = [
        ("Loss", "nats per token", loss, log_x),
        (
            "Learning rate",
            "",
            vec![line(None, history.points(|line| Some(line.lr)), 0, Mark::Line)],
            false,
        ),
        (
            "Gradient norm",
            "before clipping",
            noisy(history.points(|line| line.grad_norm), window, 0),
            false,
        ),
        ("Throughput", "tokens per second", noisy(tokens_per_second, window, 0), false),
        (
            "Zeros by block",
            "share of zero trits",
            by_block(&history.weights, |projection| projection.zeros),
            false,
        ),
        (
            "Scales by block",
            "mean of the scales of a block's matrices",
            by_block(&history.weights, |projection| f64::from(projection.scale)),
            false,
        ),
    ];
    let mut figures = Vec::new();
    for (title, note, series, log_x) in candidates {
        let chart = Chart {
            x_label: "optimizer step".into(),
            y_label: String::new(),
            log_x,
            log_y: false,
            series,
        };
        if chart.has_points() {
            figures.push(Figure { title, note, svg: inline(&chart.svg(SIZE, SCALE)?, title) });
        }
    }
    Ok(figures)
}

/// An SVG as an element of a page: as wide as there is room, with a name for those who cannot see it.
fn inline(svg: &str, title: &str) -> String {
    let (width, height) = (SIZE.0 * SCALE, SIZE.1 * SCALE);
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    format!(r#"<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">{body}"#)
}

fn line(label: Option<&str>, points: Vec<Point>, index: usize, mark: Mark) -> Series {
    Series { label: label.map(Into::into), points, color: color(index), mark }
}

/// A noisy curve behind its mean.
fn noisy(points: Vec<Point>, window: usize, index: usize) -> Vec<Series> {
    let mean = line(None, smooth(&points, window), index, Mark::Line);
    if window > 1 { vec![line(None, points, index, Mark::Faint), mean] } else { vec![mean] }
}

/// Names the last of several lines.
fn label(series: &mut [Series], label: &str) {
    if let Some(last) = series.last_mut() {
        last.label = Some(label.into());
    }
}

/// The mean of a value over the matrices of each block, over time.
fn by_block(weights: &[Weights], value: impl Fn(&Projection) -> f64) -> Vec<Series> {
    let mut blocks: Vec<usize> = weights
        .iter()
        .flat_map(|line| line.tensors.keys())
        .filter_map(|name| block(name))
        .collect();
    blocks.sort_unstable();
    blocks.dedup();
    let last = blocks.len().saturating_sub(1);
    let every = last.div_ceil(MOST_LABELS - 1).max(1);
    let mean = |line: &Weights, wanted: usize| {
        let of_block = line.tensors.iter().filter(|(name, _)| block(name) == Some(wanted));
        let values: Vec<f64> = of_block.map(|(_, projection)| value(projection)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    blocks
        .iter()
        .enumerate()
        .map(|(index, &block)| Series {
            label: (index % every == 0 || index == last).then(|| format!("block {block}")),
            points: weights
                .iter()
                .filter_map(|line| Some((line.step as f64, mean(line, block)?)))
                .collect(),
            color: ramp(index as f64 / last.max(1) as f64),
            mark: Mark::Dotted,
        })
        .collect()
}

/// The block that a tensor belongs to: 3 for `model.layers.3.self_attn.q_proj.weight`.
pub(super) fn block(name: &str) -> Option<usize> {
    name.split_once("layers.")?.1.split('.').next()?.parse().ok()
}
