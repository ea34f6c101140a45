//! One axis: its range, its ticks at round numbers, and their labels.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// A linear or logarithmic axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    /// The axis that shows all of these values, with a margin if wanted; 0 to 1 if there are none.
    ///
    /// The values are finite, and positive where `log`.
    pub(super) fn over(values: impl Iterator<Item = f64>, log: bool, margin: bool) -> Self {
        let forth = |value: f64| if log { value.ln() } else { value };
        let back = |value: f64| if log { value.exp() } else { value };
        let (low, high) =
            values.map(forth).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        if low > high {
            return Self { low: back(0.0), high: back(1.0), log };
        }
        let span = high - low;
        let beyond = if span == 0.0 {
            // One value alone stands in the middle.
            if log || low == 0.0 { 1.0 } else { low.abs() / 10.0 }
        } else if margin {
            span / 20.0
        } else {
            0.0
        };
        // What is never negative has no axis below zero.
        let bottom = low - beyond;
        let bottom = if !log && low >= 0.0 { bottom.max(0.0) } else { bottom };
        Self { low: back(bottom), high: back(high + beyond), log }
    }

    /// Round numbers on the axis, about `most` of them at most.
    pub(super) fn ticks(&self, most: usize) -> Vec<f64> {
        let decades = if self.log { (self.high / self.low).log10() } else { 0.0 };
        if decades < 1.0 {
            return self.linear_ticks(most);
        }
        let factors: &[f64] = if decades < 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let every = (decades / most.max(1) as f64).ceil().max(1.0) as usize;
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        (first..=last)
            .step_by(every)
            .flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)))
            .filter(|tick| (self.low..=self.high).contains(tick))
            .collect()
    }

    fn linear_ticks(&self, most: usize) -> Vec<f64> {
        let step = self.step(most);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|i| i as f64 * step).collect()
    }

    /// The least of 1, 2 and 5 times a power of ten that gives at most so many linear ticks.
    fn step(&self, most: usize) -> f64 {
        let rough = (self.high - self.low) / most.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough);
        factor.unwrap_or(10.0) * power
    }

    /// A tick in as few characters as tell it from the next.
    pub(super) fn label(&self, tick: f64) -> String {
        let largest = self.low.abs().max(self.high.abs());
        if tick == 0.0 {
            return "0".into();
        }
        if largest < 1e-2 || (self.log && tick < 1e-2) {
            return format!("{tick:.1e}").replace(".0e", "e");
        }
        // Ticks of a linear axis share a unit, those of a logarithmic one are far apart.
        let size = if self.log { tick } else { largest };
        for (unit, name, from) in [(1e9, "G", 1e9), (1e6, "M", 1e6), (1e3, "k", 1e4)] {
            if size >= if self.log { unit } else { from } {
                return short(tick / unit) + name;
            }
        }
        short(tick)
    }
}

/// At most four decimals, without zeros at the end.
fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').into()
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        from + (f64::from(to - from) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        self.ticks(hint.bold_points())
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.label(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64, log: bool) -> Vec<String> {
        let axis = Axis::over([low, high].into_iter(), log, false);
        axis.ticks(8).into_iter().map(|tick| axis.label(tick)).collect()
    }

    #[test]
    fn ticks_are_round_and_short() {
        assert_eq!(labels(0.0, 1_250.0, false), ["0", "200", "400", "600", "800", "1000", "1200"]);
        assert_eq!(labels(1.0, 100_000.0, false), ["20k", "40k", "60k", "80k", "100k"]);
        assert_eq!(labels(0.0, 5.12e6, false), ["0", "1M", "2M", "3M", "4M", "5M"]);
        assert_eq!(labels(0.0, 1.5e-3, false)[1], "2e-4");
        assert_eq!(labels(0.305, 0.325, false)[0], "0.305");
    }

    #[test]
    fn a_logarithmic_axis_has_its_decades() {
        assert_eq!(labels(1.0, 1e5, true), ["1", "10", "100", "1k", "10k", "100k"]);
        assert_eq!(labels(1.0, 300.0, true), ["1", "2", "5", "10", "20", "50", "100", "200"]);
        assert_eq!(labels(1.6, 5.2, true), ["2", "2.5", "3", "3.5", "4", "4.5", "5"]);
    }

    #[test]
    fn a_single_value_stands_in_the_middle() {
        for (value, log) in [(3.0, false), (0.0, false), (-2.0, false), (3.0, true)] {
            let axis = Axis::over([value].into_iter(), log, true);
            let place = axis.map(&value, (0, 1000));
            let middle = if value == 0.0 { 0..=0 } else { 499..=501 };
            assert!(middle.contains(&place), "{value}: {place}");
            assert!(!axis.ticks(8).is_empty());
        }
        assert_eq!(Axis::over(std::iter::empty(), false, true).range(), 0.0..1.0);
    }
}
