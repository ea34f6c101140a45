//! Training on the other devices against training on the CPU: operations and whole steps.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, which say what they measured")]

use burn::tensor::{Device, Int, Tensor, TensorData};
use tern_format::config::{ActivationQuantizer, Architecture, ModelConfig, Quantizer};
use tern_model::Precision;
use tern_model::fused::{self, Activation, AttentionShape, RopeTables};
use tern_model::parameters::values;
use tern_tests::training::{PRESETS, Training, small, small_with_int8};
use tern_tests::{device, max_difference};

/// f32 sums of some hundred terms in another order.
const TOLERANCE: f64 = 1e-5;

/// Terms of order one cancel in some gradients (one key, one hidden unit); what is left is rounding.
const FLOOR: f64 = 0.1;

fn noise(shape: [usize; 2], seed: u64, device: &Device) -> Tensor<2> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let values: Vec<f32> = (0..shape[0] * shape[1])
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn ids(len: usize, below: usize, device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i32> = (0..len).map(|i| ((i * 7 + i * i) % below) as i32).collect();
    Tensor::from_data(TensorData::new(ids, [len]), device)
}

/// The value of `f`, then the gradients in its inputs of the sum of the value times noise.
fn run(
    shapes: &[[usize; 2]],
    device: &Device,
    f: &dyn Fn(&[Tensor<2>]) -> Tensor<2>,
) -> Vec<Vec<f32>> {
    let inputs: Vec<_> =
        (1..).zip(shapes).map(|(seed, &s)| noise(s, seed, device).require_grad()).collect();
    let value = f(&inputs);
    let mut all = vec![values(value.clone().inner())];
    let gradients = (value.clone() * noise(value.dims(), 99, device)).sum().backward();
    all.extend(inputs.iter().map(|x| values(x.grad(&gradients).unwrap())));
    all
}

/// Holds an operation on another device to the same on the CPU.
fn compare(name: &str, other: &str, shapes: &[[usize; 2]], f: impl Fn(&[Tensor<2>]) -> Tensor<2>) {
    let Some(other) = device(other) else { return };
    let wanted = run(shapes, &Device::flex().autodiff(), &f);
    for (part, (found, wanted)) in
        run(shapes, &other.autodiff(), &f).iter().zip(&wanted).enumerate()
    {
        let wanted: Vec<f64> = wanted.iter().map(|&v| f64::from(v)).collect();
        let largest = wanted.iter().fold(FLOOR, |most, v| most.max(v.abs()));
        let difference = max_difference(found, &wanted) / largest;
        assert!(difference <= TOLERANCE, "{name}, part {part}: {difference:e}");
    }
}

fn operations(other: &str) {
    for (rows, d_input, d_output) in [(1, 1, 1), (33, 17, 5), (64, 128, 336)] {
        compare("linear", other, &[[rows, d_input], [d_output, d_input]], |x| {
            fused::linear(x[0].clone(), x[1].clone(), Precision::F32)
        });
        compare("quantized_linear", other, &[[rows, d_input], [d_output, d_input]], |x| {
            fused::quantized_linear(x[0].clone(), x[1].clone(), 0.0, Precision::F32)
        });
        compare("ternary_linear", other, &[[rows, d_input], [d_output, d_input]], |x| {
            fused::ternary_linear(x[0].clone(), x[1].clone(), 0.0, Precision::F32)
        });
        compare("fake_ternarize", other, &[[rows, d_input]], |x| {
            fused::fake_ternarize(x[0].clone(), 1e-5)
        });
        compare("rms_norm", other, &[[rows, d_input], [1, d_input]], |x| {
            fused::rms_norm(x[0].clone(), x[1].clone().reshape([d_input]), 1e-6)
        });
        compare("layer_norm", other, &[[rows, d_output + 2], [2, d_output + 2]], |x| {
            let row = |row| x[1].clone().narrow(0, row, 1).reshape([d_output + 2]);
            fused::layer_norm(x[0].clone(), row(0), row(1), 1e-5)
        });
        compare("add_bias", other, &[[rows, d_input], [1, d_input]], |x| {
            fused::add_bias(x[0].clone(), x[1].clone().reshape([d_input]))
        });
        for f in [Activation::Silu, Activation::Relu2, Activation::Gelu] {
            compare(&format!("{f:?}"), other, &[[rows, d_input]], |x| {
                fused::activate(f, x[0].clone())
            });
            compare(&format!("{f:?} as a gate"), other, &[[rows, d_input]; 2], |x| {
                fused::gate(f, x[0].clone(), x[1].clone())
            });
        }
        compare("embedding", other, &[[d_output, d_input]], |x| {
            fused::embedding(x[0].clone(), ids(rows, d_output, &x[0].device()))
        });
        compare("cross_entropy", other, &[[rows, d_output]], |x| {
            let targets = ids(rows, d_output, &x[0].device());
            fused::cross_entropy(x[0].clone(), targets).unsqueeze()
        });
    }
    for (heads, key_value_heads) in [(1, 1), (4, 4), (4, 2), (3, 1)] {
        for (seq, head_dim) in [(1, 2), (5, 8), (33, 32)] {
            let shape = AttentionShape { batch: 2, seq, heads, key_value_heads, head_dim };
            let rope = RopeTables::new(100, head_dim, 1e4);
            let shapes =
                [heads, key_value_heads, key_value_heads].map(|heads| [2 * seq, heads * head_dim]);
            for rope in [Some(&rope), None] {
                compare(&format!("attention {shape:?}"), other, &shapes, |x| {
                    fused::causal_attention(x[0].clone(), x[1].clone(), x[2].clone(), shape, rope)
                });
            }
        }
    }
}

#[test]
fn operations_on_ndarray_are_those_of_the_cpu() {
    operations("ndarray");
}

#[test]
fn operations_on_wgpu_are_those_of_the_cpu() {
    operations("wgpu");
}

/// Trains some steps on both devices; losses may differ by `loss_bound` and gradient norms by `norm_bound`, relatively.
fn train(other: &str, count: usize, config: &ModelConfig, loss_bound: f64, norm_bound: f64) {
    let Some(device) = device(other) else { return };
    let mut wanted = Training::new(config, Device::flex());
    let mut found = Training::new(config, device);
    let mut worst = [0.0f64; 2];
    for step in 0..count {
        let (found, wanted) = (found.step(step), wanted.step(step));
        assert!(found.iter().all(|value| value.is_finite()), "step {step}: {found:?}");
        for i in 0..2 {
            worst[i] = worst[i].max((found[i] - wanted[i]).abs() / wanted[i]);
        }
        assert!(worst[0] <= loss_bound, "step {step}: loss {} against {}", found[0], wanted[0]);
        assert!(worst[1] <= norm_bound, "step {step}: norm {} against {}", found[1], wanted[1]);
    }
    println!(
        "{other}, {:?}, {:?} activations: losses within {:.1e}, norms within {:.1e}",
        config.architecture, config.activation_quantizer, worst[0], worst[1]
    );
}

fn twenty_steps(other: &str) {
    train(other, 20, &small(Architecture::Bitlm), 1e-3, 1e-3);
    // A flipped code may cost 1e-3 of the loss and 1e-2 of a gradient.
    train(other, 20, &small_with_int8(), 1e-3, 1e-2);
}

/// Three steps: the first updates of Adam are of full size however small a gradient is, so a code or trit that flips after one of
/// them changes more with each that follows.
fn every_preset(other: &str) {
    for architecture in PRESETS {
        let preset = small(architecture);
        let eight_bits = preset.activation_quantizer == ActivationQuantizer::Int8;
        let norm_bound = if eight_bits { 1e-2 } else { 1e-3 };
        train(other, 3, &preset, 1e-3, norm_bound);
        if architecture == Architecture::Bitgpt {
            let minilm = ModelConfig { quantizer: Quantizer::MiniLm, ..preset };
            train(other, 3, &minilm, 1e-3, norm_bound);
        }
    }
}

#[test]
fn twenty_steps_on_ndarray_are_those_of_the_cpu() {
    twenty_steps("ndarray");
}

#[test]
fn twenty_steps_on_wgpu_are_those_of_the_cpu() {
    twenty_steps("wgpu");
}

#[test]
fn every_preset_trains_on_ndarray_as_on_the_cpu() {
    every_preset("ndarray");
}

#[test]
fn every_preset_trains_on_wgpu_as_on_the_cpu() {
    every_preset("wgpu");
}
