//! Where the time of a step goes, operation by operation, and how much of the machine's speed the model uses.

use burn::tensor::Device;
use serde::Serialize;
use tern_datasets::batches::Batches;
use tern_format::config::ModelConfig;
use tern_kernels::train::bf16::Bf16;
use tern_kernels::train::peak;
use tern_model::profile::{self, Recording, record, span};

use crate::config::{Precision, RunConfig};
use crate::gradients::Gradients;
use crate::rehearsal::{Practice, random_windows};

/// The figures of `--profile`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// Optimizer steps that were measured.
    pub steps: u64,
    /// Tokens they learned from.
    pub tokens: u64,
    /// All steps together.
    pub seconds: f64,
    /// Tokens learned from a second.
    pub tokens_per_second: f64,
    /// Where the time went; the shares add up to 1.
    pub rows: Vec<Row>,
    /// Floating-point operations that the model takes for a token, as [`model_flop_per_token`] counts them.
    pub model_flop_per_token: u64,
    /// Those for all tokens, a second.
    pub model_flop_per_second: f64,
    /// How fast this machine's CPU multiplies matrices, and which share of that the model uses; none for other devices.
    pub utilization: Option<Utilization>,
}

/// A phase of the steps, or an operation in one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// `batch`, `forward`, `backward`, `clip`, `optimizer`; none for what happened between them.
    pub phase: Option<&'static str>,
    /// A fused operation and its sides; none for the rest of the phase: autodiff, Burn's own operations.
    pub operation: Option<String>,
    /// How often it was called.
    pub calls: u64,
    /// In all calls.
    pub seconds: f64,
    /// Floating-point operations of its matrix products, a multiplication and an addition being two.
    pub flop: u64,
    /// The same a second.
    pub flop_per_second: f64,
    /// Of the seconds of all rows.
    pub share: f64,
}

/// What the model does of what the machine can.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Utilization {
    /// Threads that products use.
    pub threads: usize,
    /// Of products in f32, measured, floating-point operations a second.
    pub f32_flop_per_second: f64,
    /// Of products in bf16, where the CPU has them.
    pub bf16_flop_per_second: Option<f64>,
    /// The model's floating-point operations a second over those of the run's precision (model FLOP utilization,
    /// arXiv:2204.02311 appendix B).
    pub of_model: f64,
}

impl Utilization {
    /// `model` is the model's floating-point operations a second.
    fn new(machine: Machine, precision: Precision, model: f64) -> Self {
        let Machine { f32_flop_per_second, bf16_flop_per_second } = machine;
        let peak = match precision {
            Precision::F32 => f32_flop_per_second,
            Precision::Bf16 => bf16_flop_per_second.unwrap_or(f32_flop_per_second),
        };
        let (threads, of_model) = (peak::threads(), model / peak);
        Self { threads, f32_flop_per_second, bf16_flop_per_second, of_model }
    }
}

/// How fast the CPU multiplies matrices, floating-point operations a second.
#[derive(Clone, Copy)]
struct Machine {
    f32_flop_per_second: f64,
    bf16_flop_per_second: Option<f64>,
}

impl Machine {
    fn measure() -> Self {
        Self {
            f32_flop_per_second: peak::f32(),
            bf16_flop_per_second: Bf16::detect().map(peak::bf16),
        }
    }
}

impl Profile {
    /// Takes `steps` steps after a warm-up of one micro-batch, on windows of `batches` or else on random tokens. `device` has
    /// autodiff; `is_cpu` says whether it is the one that [`Utilization`] is of.
    ///
    /// Nothing is written; the memory is that of a run.
    pub fn measure(
        config: &RunConfig,
        device: &Device,
        is_cpu: bool,
        batches: Option<&Batches>,
        steps: u64,
    ) -> Self {
        let machine = is_cpu.then(Machine::measure);
        let random = random_windows(config);
        let learn = |practice: &Practice<'_>, step: u64, micro_steps: usize| {
            let mut gradients = Gradients::default();
            for micro_step in 0..micro_steps {
                let phase = span("batch", [], 0);
                let drawn = batches.map(|b| b.batch(step, micro_step, config.data.micro_batch));
                drop(phase);
                practice.micro_batch(drawn.as_deref().unwrap_or(&random), &mut gradients);
            }
            gradients
        };
        let shares = |step| config.train.schedule.at(step, config.train.steps);
        let practice = Practice::new(config, device);
        let gradients = learn(&practice, 0, 1);
        let mut practice = practice.update(gradients, shares(1));
        let ((), recording) = record(|| {
            for step in 1..=steps {
                let gradients = learn(&practice, step, config.train.grad_accum);
                practice = practice.update(gradients, shares(step + 1));
            }
        });
        Self::of(config, steps, recording, machine)
    }

    fn of(config: &RunConfig, steps: u64, recording: Recording, machine: Option<Machine>) -> Self {
        let seconds = recording.time.as_secs_f64();
        let tokens = steps * config.tokens_per_step();
        let tokens_per_second = tokens as f64 / seconds;
        let model_flop_per_token = model_flop_per_token(&config.model, config.data.seq_len);
        let model_flop_per_second = model_flop_per_token as f64 * tokens_per_second;
        let utilization =
            machine.map(|m| Utilization::new(m, config.train.precision, model_flop_per_second));
        Self {
            steps,
            tokens,
            seconds,
            tokens_per_second,
            rows: rows(recording),
            model_flop_per_token,
            model_flop_per_second,
            utilization,
        }
    }
}

/// Phase by phase in the order of a step, in each the longest operation first and the rest at the end.
fn rows(recording: Recording) -> Vec<Row> {
    let mut phases = Vec::new();
    for row in recording.rows.iter().skip(1).chain(recording.rows.first()) {
        if !phases.contains(&row.phase) {
            phases.push(row.phase);
        }
    }
    let whole = recording.time.as_secs_f64();
    let mut rows = recording.rows;
    rows.sort_by_key(|row| {
        let phase = phases.iter().position(|&phase| phase == row.phase);
        (phase, row.operation.is_none(), std::cmp::Reverse(row.time))
    });
    let row = |profile::Row { phase, operation, calls, time, flop }| {
        let seconds = time.as_secs_f64();
        // A clock may stand still over a short span.
        let flop_per_second = if seconds > 0.0 { flop as f64 / seconds } else { 0.0 };
        Row { phase, operation, calls, seconds, flop, flop_per_second, share: seconds / whole }
    };
    rows.into_iter().map(row).collect()
}

/// Floating-point operations that training takes for a token: `6 n + 12 l h q t` with `n` the weights that are multiplied by
/// (the matrices of the blocks and the head; looking rows of the embeddings up takes none), `l` blocks, `h` heads of width
/// `q`, `t` tokens of a sequence, all of which each token is taken to see (arXiv:2204.02311 appendix B).
pub fn model_flop_per_token(model: &ModelConfig, seq_len: usize) -> u64 {
    let layers = model.num_hidden_layers as u64;
    let linears = model.block_linears();
    let block: u64 = linears.iter().map(|l| l.d_output as u64 * l.d_input as u64).sum();
    let head = model.vocab_size as u64 * model.hidden_size as u64;
    let width = model.num_attention_heads as u64 * model.head_dim as u64;
    6 * (layers * block + head) + 12 * layers * width * seq_len as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use tern_format::config::Architecture;

    use super::*;

    #[test]
    fn the_models_operations_are_palms() {
        // 972,800 weights in the blocks, 192 x 128 in the head, 5 blocks of 4 heads of 32.
        let bitlm = ModelConfig::preset(Architecture::Bitlm);
        let wanted = 6 * (972_800 + 24_576) + 12 * 5 * 4 * 32 * 256;
        assert_eq!(model_flop_per_token(&bitlm, 256), wanted);
    }

    fn config() -> RunConfig {
        let text = r#"
[model]
architecture = "bitlm"
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
[data]
corpus = "stories"
train_stories = 10
valid_stories = 2
seq_len = 16
micro_batch = 2
[data.tokenizer]
train = "unigram"
vocab_size = 300
[train]
grad_accum = 3
"#;
        RunConfig::parse(text, Path::new("run.toml"), &[]).unwrap()
    }

    #[test]
    fn shares_add_up_and_products_are_those_of_the_model() {
        let config = config();
        let device = tern_model::device::find("cpu").unwrap().autodiff();
        let profile = Profile::measure(&config, &device, true, None, 2);
        assert_eq!((profile.steps, profile.tokens), (2, 2 * 3 * 2 * 16));
        let shares: f64 = profile.rows.iter().map(|row| row.share).sum();
        assert!((shares - 1.0).abs() < 1e-9, "{shares}");
        let seconds: f64 = profile.rows.iter().map(|row| row.seconds).sum();
        assert!((seconds / profile.seconds - 1.0).abs() < 1e-9, "{seconds}");

        let find = |phase: &str, operation: &str| {
            let is_it = |row: &&Row| {
                row.phase == Some(phase) && row.operation.as_deref() == Some(operation)
            };
            profile.rows.iter().find(is_it).unwrap_or_else(|| panic!("{phase} {operation}"))
        };
        // Queries, keys, values and output in two blocks, three micro-batches, two steps.
        let square = find("forward", "ternary_linear 32x32x32");
        assert_eq!((square.calls, square.flop), (4 * 2 * 3 * 2, 48 * 2 * 32 * 32 * 32));
        assert_eq!(find("backward", "ternary_linear 32x32x32").flop, 2 * square.flop);
        let attention = "attention 2x16x2x2x16";
        assert_eq!(find("forward", attention).calls, 2 * 3 * 2);
        let (forward, backward) = (find("forward", attention), find("backward", attention));
        assert_eq!(5 * forward.flop, 2 * backward.flop);
        assert!(find("optimizer", "adamw").calls > 0);
        // All products of linear layers are six for each weight and token.
        let is_linear = |row: &&Row| row.operation.as_deref().is_some_and(|o| o.contains("linear"));
        let flop: u64 = profile.rows.iter().filter(is_linear).map(|row| row.flop).sum();
        let attention = 12 * 2 * 32 * 16;
        assert_eq!(flop, (profile.model_flop_per_token - attention) * profile.tokens);

        let utilization = profile.utilization.unwrap();
        let wanted = profile.model_flop_per_second / utilization.f32_flop_per_second;
        assert_eq!(utilization.of_model, wanted);
    }

    #[test]
    fn rows_are_in_the_order_of_a_step_and_the_longest_first() {
        use std::time::Duration;

        let row = |phase, operation: Option<&str>, millis| profile::Row {
            phase,
            operation: operation.map(Into::into),
            calls: 1,
            time: Duration::from_millis(millis),
            flop: 8,
        };
        let recorded = vec![
            row(None, None, 1),
            row(Some("forward"), None, 4),
            row(Some("forward"), Some("a"), 1),
            row(Some("backward"), None, 0),
            row(Some("forward"), Some("b"), 2),
        ];
        let time = Duration::from_millis(8);
        let rows = rows(Recording { time, rows: recorded });
        let order: Vec<_> = rows
            .iter()
            .map(|row| (row.phase, row.operation.as_deref(), row.share, row.flop_per_second))
            .collect();
        let wanted = [
            (Some("forward"), Some("b"), 0.25, 4e3),
            (Some("forward"), Some("a"), 0.125, 8e3),
            (Some("forward"), None, 0.5, 2e3),
            (Some("backward"), None, 0.0, 0.0),
            (None, None, 0.125, 8e3),
        ];
        assert_eq!(order, wanted);
    }
}
