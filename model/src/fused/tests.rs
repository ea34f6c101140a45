//! Every fused operation against its composition of Burn's operations: values, gradients, and the same bytes twice.
#![allow(clippy::unwrap_used, reason = "tests")]

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::*;
use crate::precision::Precision;

/// Relative to the largest entry: f32 sums of some hundred terms in another order.
const TOLERANCE: f32 = 1e-5;

/// Terms of order one cancel in some gradients (one key, one hidden unit); what is left is rounding.
const FLOOR: f32 = 0.1;

fn device() -> Device {
    Device::flex().autodiff()
}

fn noise(shape: [usize; 2], seed: u64) -> Tensor<2> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let values = (0..shape[0] * shape[1])
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(values, shape), &device())
}

fn ids(len: usize, below: usize) -> Tensor<1, Int> {
    let ids = (0..len).map(|i| ((i * 7 + i * i) % below) as i64).collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(ids, [len]), &device())
}

fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_into_vec().unwrap()
}

/// Value, then the gradients in the inputs of the sum of the value times noise.
fn run(inputs: &[Tensor<2>], f: &dyn Fn(&[Tensor<2>]) -> Tensor<2>) -> Vec<Vec<f32>> {
    let inputs: Vec<_> = inputs.iter().map(|x| x.clone().detach().require_grad()).collect();
    let value = f(&inputs);
    let mut all = vec![floats(value.clone())];
    let gradients = (value.clone() * noise(value.dims(), 99)).sum().backward();
    all.extend(inputs.iter().map(|x| floats(x.grad(&gradients).unwrap())));
    all
}

fn compare(
    name: &str,
    inputs: &[Tensor<2>],
    fused: impl Fn(&[Tensor<2>]) -> Tensor<2>,
    plain: impl Fn(&[Tensor<2>]) -> Tensor<2>,
) {
    let found = run(inputs, &fused);
    assert!(found == run(inputs, &fused), "{name}: other bytes the second time");
    let wanted = run(inputs, &plain);
    for (part, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        let largest = wanted.iter().fold(FLOOR, |a, b| a.max(b.abs()));
        for (found, wanted) in found.iter().zip(wanted) {
            let error = (found - wanted).abs() / largest;
            assert!(error <= TOLERANCE, "{name}, part {part}: {found} is not {wanted} ({error:e})");
        }
    }
    // Without autodiff the value is the same.
    let inner: Vec<_> = inputs.iter().map(|x| x.clone().inner()).collect();
    assert!(floats(fused(&inner)) == found[0], "{name}: without autodiff");
}

#[test]
fn linear_equals_plain() {
    for rows in [1, 3, 17, 256] {
        for (d_input, d_output) in [(1, 1), (5, 3), (128, 336), (33, 64)] {
            let inputs = [noise([rows, d_input], 1), noise([d_output, d_input], 2)];
            let plain = |x: &[Tensor<2>]| plain_linear(x[0].clone(), x[1].clone());
            compare(
                "linear",
                &inputs,
                |x| linear(x[0].clone(), x[1].clone(), Precision::F32),
                plain,
            );
        }
    }
}

#[test]
fn linear_skips_what_is_not_tracked() {
    let x = noise([7, 5], 1);
    let w = noise([3, 5], 2).require_grad();
    let gradients = linear(x.clone(), w.clone(), Precision::F32).sum().backward();
    assert!(w.grad(&gradients).is_some());
    assert!(x.grad(&gradients).is_none());
}

#[test]
fn rms_norm_equals_plain() {
    for rows in [1, 3, 17, 200] {
        for hidden in [1, 5, 16, 128] {
            let inputs = [noise([rows, hidden], 3), noise([1, hidden], 4)];
            let gain = |x: &[Tensor<2>]| x[1].clone().reshape([hidden]);
            compare(
                "rms_norm",
                &inputs,
                |x| rms_norm(x[0].clone(), gain(x), 1e-6),
                |x| plain_rms_norm(x[0].clone(), gain(x), 1e-6),
            );
        }
    }
}

#[test]
fn layer_norm_equals_plain() {
    for rows in [1, 3, 17, 200] {
        // One channel alone has no variance: its gradient is rounding.
        for hidden in [3, 16, 128] {
            let inputs = [noise([rows, hidden], 3), noise([1, hidden], 4), noise([1, hidden], 5)];
            let vector = |x: &Tensor<2>| x.clone().reshape([hidden]);
            compare(
                "layer_norm",
                &inputs,
                |x| layer_norm(x[0].clone(), vector(&x[1]), vector(&x[2]), 1e-5),
                |x| plain_layer_norm(x[0].clone(), vector(&x[1]), vector(&x[2]), 1e-5),
            );
        }
    }
}

#[test]
fn add_bias_equals_plain() {
    for (rows, cols) in [(1, 1), (3, 17), (200, 336)] {
        let inputs = [noise([rows, cols], 5), noise([1, cols], 6)];
        let bias = |x: &[Tensor<2>]| x[1].clone().reshape([cols]);
        compare(
            "add_bias",
            &inputs,
            |x| add_bias(x[0].clone(), bias(x)),
            |x| plain_add_bias(x[0].clone(), bias(x)),
        );
        // A result that nobody else holds takes the bias in place.
        let product = |x: &[Tensor<2>]| linear(x[0].clone(), x[0].clone(), Precision::F32);
        let wide = noise([1, rows], 7).reshape([rows]);
        compare(
            "add_bias in place",
            &inputs[..1],
            |x| add_bias(product(x), wide.clone()),
            |x| plain_add_bias(product(x), wide.clone()),
        );
    }
}

#[test]
fn activations_equal_plain() {
    for f in [Activation::Silu, Activation::Relu2, Activation::Gelu] {
        for (rows, cols) in [(1, 1), (3, 17), (17, 336), (100, 400)] {
            let inputs = [noise([rows, cols], 5).mul_scalar(8.0), noise([rows, cols], 6)];
            compare(
                &format!("{f:?}"),
                &inputs[..1],
                |x| activate(f, x[0].clone()),
                |x| plain_activate(f, x[0].clone()),
            );
            compare(
                &format!("{f:?} as a gate"),
                &inputs,
                |x| gate(f, x[0].clone(), x[1].clone()),
                |x| plain_gate(f, x[0].clone(), x[1].clone()),
            );
        }
    }
}

#[test]
fn cross_entropy_equals_plain() {
    for (rows, vocab) in [(1, 2), (3, 5), (17, 192), (300, 33)] {
        let inputs = [noise([rows, vocab], 7).mul_scalar(10.0)];
        compare(
            "cross_entropy",
            &inputs,
            |x| cross_entropy(x[0].clone(), ids(rows, vocab)).unsqueeze(),
            |x| plain_cross_entropy(x[0].clone(), ids(rows, vocab)).unsqueeze(),
        );
    }
}

#[test]
fn embedding_equals_plain() {
    for (rows, vocab, hidden) in [(1, 1, 1), (3, 5, 8), (300, 17, 128)] {
        compare(
            "embedding",
            &[noise([vocab, hidden], 8)],
            |x| embedding(x[0].clone(), ids(rows, vocab)),
            |x| plain_embedding(x[0].clone(), ids(rows, vocab)),
        );
    }
}

#[test]
fn fake_quantizers_equal_plain() {
    for (rows, cols) in [(1, 1), (3, 17), (128, 336)] {
        let inputs = [noise([rows, cols], 9)];
        for eps in [0.0, 1e-5] {
            let plain = |x: &[Tensor<2>]| plain_fake_ternarize(x[0].clone(), eps);
            compare("ternary", &inputs, |x| fake_ternarize(x[0].clone(), eps), plain);
        }
        let plain = |x: &[Tensor<2>]| plain_fake_quantize_int8(x[0].clone());
        compare("int8", &inputs, |x| fake_quantize_int8(x[0].clone()), plain);
    }
}

#[test]
fn causal_attention_equals_plain() {
    for (heads, key_value_heads) in [(1, 1), (4, 4), (4, 2), (3, 1)] {
        for (head_dim, rotates) in [(2, true), (8, true), (32, true), (32, false), (3, false)] {
            for seq in [1, 5, 33, 64] {
                let shape = AttentionShape { batch: 2, seq, heads, key_value_heads, head_dim };
                let rope = rotates.then(|| RopeTables::new(100, head_dim, 1e4));
                let inputs = [(11, heads), (12, key_value_heads), (13, key_value_heads)]
                    .map(|(seed, heads)| noise([2 * seq, heads * head_dim], seed).mul_scalar(2.0));
                let parts = |x: &[Tensor<2>]| (x[0].clone(), x[1].clone(), x[2].clone());
                compare(
                    &format!("attention {shape:?}"),
                    &inputs,
                    |x| {
                        let (q, k, v) = parts(x);
                        causal_attention(q, k, v, shape, rope.as_ref())
                    },
                    |x| {
                        let (q, k, v) = parts(x);
                        plain_causal_attention(q, k, v, shape, rope.as_ref())
                    },
                );
            }
        }
    }
}

#[test]
fn quantized_linear_equals_plain() {
    for (rows, d_input, d_output) in [(1, 1, 1), (3, 17, 5), (65, 128, 336)] {
        let inputs = [noise([rows, d_input], 14), noise([d_output, d_input], 15)];
        let plain = |x: &[Tensor<2>]| plain_quantized_linear(x[0].clone(), x[1].clone(), 0.0);
        let fused =
            |x: &[Tensor<2>]| quantized_linear(x[0].clone(), x[1].clone(), 0.0, Precision::F32);
        compare("quantized_linear", &inputs, fused, plain);
        let plain = |x: &[Tensor<2>]| plain_ternary_linear(x[0].clone(), x[1].clone(), 1e-5);
        let fused =
            |x: &[Tensor<2>]| ternary_linear(x[0].clone(), x[1].clone(), 1e-5, Precision::F32);
        compare("ternary_linear", &inputs, fused, plain);
    }
}

/// Sides rounded to eight bits move a sum of n terms by some 2^-8 of its size; whole numbers not at all.
#[test]
fn products_in_bf16_are_near_those_in_f32_and_of_codes_the_same() {
    let bf16 = Precision::bf16_or_f32();
    if matches!(bf16, Precision::F32) {
        eprintln!("skipped: this CPU has no products of bf16");
        return;
    }
    let inputs = [noise([65, 128], 14), noise([336, 128], 15)];
    type Product = fn(Tensor<2>, Tensor<2>, Precision) -> Tensor<2>;
    let products: [(Product, bool); 3] = [
        (linear, false),
        (|x, w, precision| ternary_linear(x, w, 0.0, precision), false),
        (|x, w, precision| quantized_linear(x, w, 0.0, precision), true),
    ];
    for (product, is_exact) in products {
        let of = |precision| {
            run(&inputs, &|x: &[Tensor<2>]| product(x[0].clone(), x[1].clone(), precision))
        };
        let (found, wanted) = (of(bf16), of(Precision::F32));
        assert_eq!(found[0] == wanted[0], is_exact);
        for (found, wanted) in found.iter().zip(&wanted) {
            let largest = wanted.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            for (found, wanted) in found.iter().zip(wanted) {
                assert!((found - wanted).abs() < 1e-2 * largest, "{found} is not {wanted}");
            }
        }
    }
}

#[test]
fn adamw_equals_plain() {
    let step =
        AdamW { learning_rate: 1e-2, weight_decay: 0.1, betas: [0.9, 0.95], eps: 1e-8, step: 3 };
    for n in [1, 17, 40_000] {
        let [p, m, v, g] = [1, 2, 3, 4].map(|seed| noise([1, n], seed).inner().flatten::<1>(0, 1));
        let moved = || Moved { p: p.clone(), m: m.clone(), v: v.clone().abs() };
        let fused = adamw(&step, moved(), g.clone());
        let plain = plain_adamw(&step, moved(), g);
        for (fused, plain) in [(fused.p, plain.p), (fused.m, plain.m), (fused.v, plain.v)] {
            for (fused, plain) in floats(fused).into_iter().zip(floats(plain)) {
                assert!((fused - plain).abs() <= TOLERANCE, "{n}: {fused} is not {plain}");
            }
        }
    }
}

/// Against the formula by hand: latents at 0.72, -0.64, 0.08, -0.16, 2.4 and -2 times their mean of 1.25.
#[test]
fn minilm_linear_has_gradients_through_its_scales_and_none_where_a_clamp_holds() {
    let latent = vec![0.9f32, -0.8, 0.1, -0.2, 3.0, -2.5];
    let w = || Tensor::<2>::from_data(TensorData::new(latent.clone(), [2, 3]), &device());
    let x = || Tensor::<2>::from_data(TensorData::new(vec![0.7f32, -0.3, 0.9], [1, 3]), &device());
    let near = |found: Tensor<2>, expected: &[f32]| {
        for (found, expected) in floats(found).into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
        }
    };
    let (s, a) = (1.25f32, 0.9f32);
    // Codes 99, -42 and 127; trits 1, -1, 0 and 0, 1, -1.
    let factor = s * a / 127.0;
    near(minilm_linear(x(), w(), true, Precision::F32), &[141.0 * factor, -169.0 * factor]);
    near(minilm_linear(x(), w(), false, Precision::F32), &[s * (0.7 + 0.3), s * (-0.3 - 0.9)]);

    let tracked = w().require_grad();
    let gradients = minilm_linear(x(), tracked.clone(), true, Precision::F32).sum().backward();
    // Only the two zeros, 0.1 and -0.2, are not held.
    let open = [0.0, 0.0, 127.0 * factor / s, 99.0 * factor / s, 0.0, 0.0];
    let pull: f32 = open.iter().zip(&latent).map(|(g, w)| g * w / s).sum();
    let of_scale = (141.0 - 169.0) * a / 127.0 - pull;
    let expected: Vec<f32> =
        open.iter().zip(&latent).map(|(g, w)| g + of_scale * w.signum() / 6.0).collect();
    near(tracked.grad(&gradients).unwrap(), &expected);
}

#[test]
fn newton_schulz_equals_plain() {
    for shape in [[1, 1], [3, 17], [17, 3], [64, 64], [128, 336], [336, 128]] {
        let x = noise(shape, 16).inner();
        let fused = floats(newton_schulz(x.clone(), 5));
        assert!(fused == floats(newton_schulz(x.clone(), 5)), "{shape:?}: other bytes");
        let plain = floats(plain_newton_schulz(x, 5));
        for (fused, plain) in fused.into_iter().zip(plain) {
            // Entries are below 1.2; the steps stretch the rounding of small singular values, at most 3.4 times each.
            assert!((fused - plain).abs() <= 1e2 * TOLERANCE, "{shape:?}: {fused} is not {plain}");
        }
    }
}

#[test]
fn clipping_equals_plain() {
    for n in [1, 17, 200_000] {
        let x = noise([1, n], 5).inner().flatten::<1>(0, 1);
        let (fused, plain) =
            (floats(sum_of_squares(x.clone())), floats(plain_sum_of_squares(x.clone())));
        assert!((fused[0] / plain[0] - 1.0).abs() < TOLERANCE, "{fused:?} {plain:?}");
        let scaled = floats(scale(x.clone(), 0.3));
        assert!(scaled == floats(x.clone().mul_scalar(0.3)));
        assert!(floats(scale(x.clone() + 0.0, 0.3)) == scaled, "in place");
    }
}
