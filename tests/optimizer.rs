//! Optimizers and schedules against independent float64 code, on every device, and Muon in training.
#![allow(clippy::unwrap_used, reason = "tests")]

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;
use tern_format::config::Architecture;
use tern_model::parameters::values;
use tern_tests::training::{Training, small};
use tern_tests::{device, golden_directory, max_difference};
use tern_train::gradients::Gradients;
use tern_train::optimizer::{Optimizer, OptimizerConfig, OptimizerKind};
use tern_train::schedule::{ScheduleConfig, ScheduleKind, Shares};

/// A linear layer as it is named in a block, and a gain.
#[derive(Module, Debug)]
struct Layer {
    q_proj: Linear,
    gain: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Linear {
    weight: Param<Tensor<2>>,
}

impl Layer {
    fn new(matrix: &[f64], shape: [usize; 2], gain: &[f64], device: &Device) -> Self {
        let tensor = |values: &[f64]| Tensor::<1>::from_data(single(values), device);
        let weight = Param::from_tensor(tensor(matrix).reshape(shape));
        Self { q_proj: Linear { weight }, gain: Param::from_tensor(tensor(gain)) }
    }

    /// One step along these gradients: those of the parameters' products with them.
    fn step(self, matrix: &[f64], gain: &[f64], optimizer: &mut Optimizer) -> Self {
        let device = self.gain.val().device();
        let tensor = |values: &[f64]| Tensor::<1>::from_data(single(values), &device);
        let weight = self.q_proj.weight.val();
        let matrix = tensor(matrix).reshape(weight.shape());
        let loss = weight.mul(matrix).sum() + self.gain.val().mul(tensor(gain)).sum();
        let mut gradients = Gradients::default();
        gradients.add(&self, loss.backward());
        optimizer.step(self, gradients, Shares::default())
    }
}

fn single(values: &[f64]) -> TensorData {
    let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    let shape = [values.len()];
    TensorData::new(values, shape)
}

fn golden(name: &str, file: &str) -> Value {
    let text = std::fs::read_to_string(golden_directory(name).join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// Each test once on every device.
macro_rules! on_every_device {
    ($($test:ident)*) => {
        mod cpu {
            $(#[test] fn $test() { super::$test(&super::device("cpu").unwrap()) })*
        }
        mod ndarray {
            $(#[test] fn $test() { super::$test(&super::device("ndarray").unwrap()) })*
        }
        mod wgpu {
            $(#[test] fn $test() { if let Some(device) = super::device("wgpu") { super::$test(&device) } })*
        }
    };
}

on_every_device! {
    adamw_meets_its_golden
    muon_meets_its_golden
    muon_learns
}

/// As the optimizer of everything, and beside Muon with a learning rate of its own.
fn adamw_meets_its_golden(device: &Device) {
    let device = &device.clone().autodiff();
    for (name, trace) in golden("adamw_trace", "trace.json").as_object().unwrap() {
        let hyper = &trace["hyper"];
        for (kind, ratio) in [(OptimizerKind::AdamW, 1.0), (OptimizerKind::Muon, 0.25)] {
            let config = OptimizerConfig {
                kind,
                learning_rate: number(&hyper["lr"]) / ratio,
                adamw_ratio: ratio,
                weight_decay: number(&hyper["weight_decay"]),
                betas: [number(&hyper["betas"][0]), number(&hyper["betas"][1])],
                eps: number(&hyper["eps"]),
                ..OptimizerConfig::default()
            };
            let mut optimizer = Optimizer::new(config);
            let mut layer = Layer::new(&[1.0], [1, 1], &numbers(&trace["start"]), device);
            for (step, expected) in trace["steps"].as_array().unwrap().iter().enumerate() {
                layer = layer.step(&[0.5], &numbers(&expected["grad"]), &mut optimizer);
                let found = values(layer.gain.val().inner());
                let difference = max_difference(&found, &numbers(&expected["p"]));
                // Below 2 a rounding costs 6e-8; a step rounds three times: the share that stays, its product, the difference.
                let bound = 1.8e-7 * (step + 1) as f64;
                assert!(difference <= bound, "{name}, {kind:?}, step {step}: {difference:e}");
            }
        }
    }
}

fn muon_meets_its_golden(device: &Device) {
    let device = &device.clone().autodiff();
    for (name, trace) in golden("muon_trace", "trace.json").as_object().unwrap() {
        let hyper = &trace["hyper"];
        let config = OptimizerConfig {
            kind: OptimizerKind::Muon,
            learning_rate: number(&hyper["lr"]),
            weight_decay: number(&hyper["weight_decay"]),
            momentum: number(&hyper["momentum"]),
            nesterov: hyper["nesterov"].as_bool().unwrap(),
            newton_schulz_steps: number(&hyper["newton_schulz_steps"]) as u32,
            ..OptimizerConfig::default()
        };
        let shape = numbers(&trace["shape"]);
        let shape = [shape[0] as usize, shape[1] as usize];
        let mut optimizer = Optimizer::new(config);
        let mut layer = Layer::new(&numbers(&trace["start"]), shape, &[1.0], device);
        for (step, expected) in trace["steps"].as_array().unwrap().iter().enumerate() {
            layer = layer.step(&numbers(&expected["grad"]), &[0.5], &mut optimizer);
            let found = values(layer.q_proj.weight.val().inner());
            let difference = max_difference(&found, &numbers(&expected["p"]));
            // An update is below 0.01. Five iterations stretch the roundings of the first, some 1e-7, at most 3.4^5 = 485
            // times, in the directions of vanishing singular values alone.
            assert!(difference <= 1e-6, "{name}, step {step}: {difference:e}");
        }
    }
}

/// On the CPU with the same bytes twice.
fn muon_learns(device: &Device) {
    let muon = OptimizerConfig {
        kind: OptimizerKind::Muon,
        learning_rate: 3e-3,
        ..OptimizerConfig::default()
    };
    let losses = || -> Vec<f64> {
        let bitlm = small(Architecture::Bitlm);
        let mut training = Training::new(&bitlm, device.clone()).with(muon.clone());
        (0..12).map(|_| training.step(0)[0]).collect()
    };
    let first = losses();
    // The same batch again and again.
    assert!(first[11] < first[0] - 1.0, "{first:?}");
    if *device == Device::flex() {
        assert_eq!(first, losses());
    }
}

/// Ours is the "nano form", evaluated at steps 1 to N. The "hf form" is the same function with a final rate of 0, one step
/// earlier: its first update has a rate of 0, and no update has the final one.
#[test]
fn cosine_meets_both_forms_of_the_golden() {
    let table = golden("schedules", "table.json");
    for (form, tables) in [("nano_form", &table["nano_form"]), ("hf_form", &table["hf_form"])] {
        let whole = tables["table"].as_array().unwrap().iter().map(numbers);
        let whole: Vec<(f64, f64)> = whole.map(|row| (row[0], row[1])).collect();
        let small = numbers(&tables["small"]["lrs"]).into_iter().enumerate();
        let small: Vec<(f64, f64)> = small.map(|(step, rate)| (step as f64, rate)).collect();
        for (sizes, rates) in [(tables, whole), (&tables["small"], small)] {
            let peak = number(&sizes["peak"]);
            let schedule = ScheduleConfig {
                kind: ScheduleKind::Cosine,
                warmup_steps: number(&sizes["warmup"]) as u64,
                final_ratio: sizes["min"].as_f64().unwrap_or(0.0) / peak,
                ..ScheduleConfig::default()
            };
            assert!(rates.len() >= 10);
            for (step, expected) in rates {
                let shares = schedule.at(step as u64, number(&sizes["total"]) as u64);
                let found = peak * shares.learning_rate;
                assert!((found - expected).abs() < 1e-17, "{form}, step {step}: {found}");
                assert_eq!(shares.weight_decay, 1.0);
            }
        }
    }
}
