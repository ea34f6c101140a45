//! Where the time of a step goes: spans that are recorded while somebody asks, by the thread that asks.
//!
//! Spans nest, and each is charged what it took without those inside it, so that the rows of a [`Recording`] add up to its
//! whole. The outermost span is a *phase* and may be anything; those within are *operations*, each under its phase, so that
//! the forward and the backward pass of one operation are two rows. What a phase does outside of operations has a row of its
//! own, and so has what happens between phases.
//!
//! Off, which is the default, a span costs the reading of one variable of the thread. The fused operations have spans on
//! the CPU; the plain ones have none, because other devices compute after the operation has returned.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// All spans of one phase, operation and shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The outermost span; none for what happened between phases.
    pub phase: Option<&'static str>,
    /// The span and its sides, such as `linear 4096x128x336`; none for what the phase did between operations.
    pub operation: Option<String>,
    /// Spans.
    pub calls: u64,
    /// Time in them, without that of spans inside.
    pub time: Duration,
    /// Floating-point operations of their matrix products: a multiplication and an addition are two.
    pub flop: u64,
}

/// What [`record`] saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// From beginning to end: the sum over the rows.
    pub time: Duration,
    /// In the order in which they first began; the first is what happened between phases.
    pub rows: Vec<Row>,
}

struct Recorder {
    /// The first is what happens between phases.
    entries: Vec<Entry>,
    /// The entry of each open span, from the outermost on.
    open: Vec<usize>,
    /// Up to when time has been charged.
    charged: Instant,
}

#[derive(Default)]
struct Entry {
    key: Key,
    calls: u64,
    time: Duration,
    flop: u64,
}

#[derive(Default, PartialEq)]
struct Key {
    phase: Option<&'static str>,
    operation: Option<(&'static str, Vec<usize>)>,
}

impl Recorder {
    /// Charges the time since the last call to the innermost open span.
    fn charge(&mut self) {
        let now = Instant::now();
        let entry = self.open.last().copied().unwrap_or(0);
        self.entries[entry].time += now - self.charged;
        self.charged = now;
    }

    fn enter(&mut self, name: &'static str, shape: &[usize], flop: u64) {
        self.charge();
        let key = match self.open.first() {
            None => Key { phase: Some(name), operation: None },
            Some(&outermost) => Key {
                phase: self.entries[outermost].key.phase,
                operation: Some((name, shape.into())),
            },
        };
        let known = self.entries.iter().position(|entry| entry.key == key);
        let index = known.unwrap_or_else(|| {
            self.entries.push(Entry { key, ..Entry::default() });
            self.entries.len() - 1
        });
        self.entries[index].calls += 1;
        self.entries[index].flop += flop;
        self.open.push(index);
    }

    fn leave(&mut self) {
        self.charge();
        self.open.pop();
    }
}

impl From<Entry> for Row {
    fn from(Entry { key: Key { phase, operation }, calls, time, flop }: Entry) -> Self {
        let operation = operation.map(|(name, shape)| {
            let sides: Vec<String> = shape.iter().map(usize::to_string).collect();
            [name, &sides.join("x")].join(" ").trim_end().into()
        });
        Self { phase, operation, calls, time, flop }
    }
}

/// Runs `body` and says where its time went on this thread.
///
/// # Panics
///
/// Inside another `record`.
pub fn record<T>(body: impl FnOnce() -> T) -> (T, Recording) {
    /// Ends the recording, also when `body` panics.
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            RECORDER.take();
        }
    }
    let began = Instant::now();
    let between = Entry { calls: 1, ..Entry::default() };
    let recorder = Recorder { entries: vec![between], open: vec![], charged: began };
    let before = RECORDER.replace(Some(recorder));
    assert!(before.is_none(), "one recording at a time");
    let off = Off;
    let result = body();
    let recorder = RECORDER.with_borrow_mut(|recorder| {
        let mut recorder = recorder.take().expect("it was put there above");
        recorder.charge();
        recorder
    });
    drop(off);
    let rows = recorder.entries.into_iter().map(Row::from).collect();
    (result, Recording { time: recorder.charged - began, rows })
}

/// An open span; ends when dropped, before those around it. Bound to its thread.
#[must_use = "a span ends when it is dropped"]
pub struct Span {
    is_recorded: bool,
    thread: PhantomData<*const ()>,
}

/// Opens a span: its name, the sides that tell its calls apart (none for a phase), the floating-point operations of its
/// products.
pub fn span<const N: usize>(name: &'static str, shape: [usize; N], flop: u64) -> Span {
    let is_recorded = RECORDER.with_borrow_mut(|recorder| match recorder {
        None => false,
        Some(recorder) => {
            recorder.enter(name, &shape, flop);
            true
        }
    });
    Span { is_recorded, thread: PhantomData }
}

impl Drop for Span {
    fn drop(&mut self) {
        if self.is_recorded {
            RECORDER.with_borrow_mut(|recorder| recorder.iter_mut().for_each(Recorder::leave));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_recording() -> bool {
        RECORDER.with_borrow(Option::is_some)
    }

    #[test]
    fn a_span_that_nobody_records_leaves_nothing() {
        drop(span("before", [3], 5));
        let open = span("outside", [], 0);
        let ((), recording) = record(|| drop(open));
        assert_eq!(recording.rows.len(), 1, "{recording:?}");
        assert_eq!(recording.rows[0].phase, None);
        drop(span("after", [3], 5));
        assert!(!is_recording());
    }

    #[test]
    fn a_span_is_charged_without_those_inside_and_the_rows_add_up() {
        let pause = || std::thread::sleep(Duration::from_millis(3));
        let ((), recording) = record(|| {
            for phase in ["forward", "backward"] {
                let _phase = span(phase, [], 0);
                pause();
                let _outer = span("outer", [], 0);
                for sides in [[2, 3], [2, 3], [3, 2]] {
                    let _inner = span("inner", sides, 12);
                    pause();
                }
            }
            pause();
        });
        let rows: Vec<_> = recording
            .rows
            .iter()
            .map(|row| (row.phase, row.operation.as_deref(), row.calls, row.flop))
            .collect();
        let mut wanted = vec![(None, None, 1, 0)];
        for phase in [Some("forward"), Some("backward")] {
            wanted.push((phase, None, 1, 0));
            wanted.push((phase, Some("outer"), 1, 0));
            wanted.push((phase, Some("inner 2x3"), 2, 24));
            wanted.push((phase, Some("inner 3x2"), 1, 12));
        }
        assert_eq!(rows, wanted);
        assert_eq!(recording.rows.iter().map(|row| row.time).sum::<Duration>(), recording.time);
        // The outer span waited in the inner ones alone.
        for row in recording.rows.iter().filter(|row| row.operation.as_deref() != Some("outer")) {
            assert!(row.time >= Duration::from_millis(3 * row.calls), "{row:?}");
        }
    }

    #[test]
    fn a_panic_ends_the_recording() {
        let panicked = std::panic::catch_unwind(|| {
            record(|| {
                let _span = span("phase", [], 0);
                panic!("as wanted");
            })
        });
        assert!(panicked.is_err());
        assert!(!is_recording());
    }
}
