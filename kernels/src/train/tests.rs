//! What all passes promise: gradients that finite differences confirm, and the same bytes on every instruction set and
//! any number of threads.

use pulp::Arch;

use super::activation::{Activation, activate, activate_backward, gate, gate_backward};
use super::adamw::AdamW;
use super::attention::{AttentionShape, Rope, Saved, attention, attention_backward};
use super::bias::{add_bias, bias_backward};
use super::cross_entropy::{cross_entropy, cross_entropy_gradient};
use super::embedding::{embedding, embedding_backward};
use super::fake_quantize::{quantize_dequantize_int8, ternarize_dequantize};
use super::gemm::{Matrix, matmul};
use super::norm::{layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};
use crate::simd::FORCED;

/// Uniform in -1..1.
pub(super) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

const EPS: f32 = 1e-6;

const ACTIVATIONS: [Activation; 3] = [Activation::Silu, Activation::Relu2, Activation::Gelu];

const SHAPE: AttentionShape =
    AttentionShape { batch: 2, seq: 37, heads: 4, key_value_heads: 2, head_dim: 6 };

fn tables(shape: AttentionShape) -> (Vec<f32>, Vec<f32>) {
    let angles = noise(shape.seq * shape.head_dim / 2, 1);
    (
        angles.iter().map(|x| (3.0 * x).cos()).collect(),
        angles.iter().map(|x| (3.0 * x).sin()).collect(),
    )
}

/// The result, then `dq`, `dk`, `dv`.
fn attention_passes(
    shape: AttentionShape,
    rotates: bool,
    [q, k, v]: [&[f32]; 3],
    dout: &[f32],
) -> [Vec<f32>; 4] {
    let (cos, sin) = tables(shape);
    let rope = rotates.then_some(Rope { cos: &cos, sin: &sin });
    let [mut out, mut dq, mut dk, mut dv] = [q, q, k, v].map(|like| vec![f32::NAN; like.len()]);
    let mut lse = vec![f32::NAN; shape.lse_len()];
    attention(shape, [q, k, v], rope, &mut out, &mut lse);
    let saved = Saved { out: &out, lse: &lse };
    let gradients = [&mut dq[..], &mut dk[..], &mut dv[..]];
    attention_backward(shape, [q, k, v], rope, saved, dout, gradients);
    [out, dq, dk, dv]
}

/// Results of every pass, on shapes with tails and several tasks.
fn everything() -> Vec<Vec<f32>> {
    let (rows, hidden) = (531, 67);
    let len = rows * hidden;
    let (x, y, dy, gain) = (noise(len, 2), noise(len, 3), noise(len, 4), noise(hidden, 5));
    let mut all: Vec<Vec<f32>> = vec![vec![f32::NAN; len]; 7];
    let [norm, dx, centered, dcentered, trits, codes, logits] = &mut all[..] else {
        unreachable!()
    };
    let [mut dgain, mut dgain_centered, mut dbias] = [(); 3].map(|()| vec![f32::NAN; hidden]);
    rms_norm(&x, &gain, EPS, norm);
    rms_norm_backward(&x, &gain, EPS, &dy, dx, &mut dgain);
    layer_norm(&x, &gain, &y[..hidden], EPS, centered);
    let gradients = [&mut dgain_centered[..], &mut dbias[..]];
    layer_norm_backward(&x, &gain, EPS, &dy, dcentered, gradients);
    ternarize_dequantize(&x, 0.0, trits);
    quantize_dequantize_int8(&x, hidden, codes);
    let ids: Vec<u32> = (0..rows as u32).map(|i| i * i % hidden as u32).collect();
    logits.copy_from_slice(&x);
    let loss = cross_entropy_gradient(logits, &ids, hidden);
    let mut product = vec![f32::NAN; hidden * hidden];
    matmul(
        Matrix::new(&dy, rows, hidden).transposed(),
        Matrix::new(&x, rows, hidden),
        &mut product,
    );
    let (mut p, mut m, mut v) = (x.clone(), vec![0.0; len], vec![0.0; len]);
    let config =
        AdamW { learning_rate: 1e-3, weight_decay: 0.1, betas: [0.9, 0.95], eps: 1e-8, step: 1 };
    config.update(&mut p, &dy, &mut m, &mut v);
    let (mut rows_of, mut dtable) = (vec![f32::NAN; len], vec![f32::NAN; hidden * hidden]);
    embedding(&x[..hidden * hidden], &ids, hidden, &mut rows_of);
    embedding_backward(&ids, &dy, hidden, &mut dtable);
    all.extend([dgain, dgain_centered, dbias, vec![loss], product, p, rows_of, dtable]);
    for f in ACTIVATIONS {
        let mut passes = [(); 5].map(|()| vec![f32::NAN; len]);
        let [alone, dalone, gated, dgate, dup] = &mut passes;
        activate(f, &x, alone);
        activate_backward(f, &x, &dy, dalone);
        gate(f, &x, &y, gated);
        gate_backward(f, &x, &y, &dy, dgate, dup);
        all.extend(passes);
    }
    let (mut biased, mut dbias) = (x.clone(), vec![f32::NAN; hidden]);
    add_bias(&mut biased, &gain);
    bias_backward(&dy, &mut dbias);
    all.extend([biased, dbias]);
    let inputs = [6, 7, 8].map(|seed| noise(SHAPE.q_len(), seed));
    let [q, k, v] = inputs.each_ref().map(Vec::as_slice);
    let (k, v) = (&k[..SHAPE.kv_len()], &v[..SHAPE.kv_len()]);
    for rotates in [true, false] {
        all.extend(attention_passes(SHAPE, rotates, [q, k, v], &dy[..SHAPE.q_len()]));
    }
    all
}

#[test]
fn same_bytes_on_every_instruction_set() {
    let wanted = everything();
    assert!(wanted.iter().flatten().all(|x| x.is_finite()));
    let mut others = vec![("scalar", Arch::Scalar)];
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    match pulp::x86::V3::try_new() {
        Some(v3) => others.push(("AVX2", Arch::V3(v3))),
        None => eprintln!("skipped AVX2: this CPU lacks it"),
    }
    eprintln!("here: {:?}", Arch::new());
    for (name, arch) in others {
        *FORCED.write().expect("no test panics with the lock") = Some(arch);
        let found = everything();
        *FORCED.write().expect("no test panics with the lock") = None;
        for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            assert!(found == wanted, "{name}, result {i}");
        }
    }
}

#[test]
fn same_bytes_on_any_number_of_threads() {
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a few threads").install(everything)
    };
    let one = with(1);
    for threads in [2, 3, 8] {
        assert!(with(threads) == one, "{threads} threads");
    }
}

/// Compares `gradient` with central differences of `f`, an f64 copy of the formula.
fn confirm(name: &str, x: &[f32], gradient: &[f32], f: impl Fn(&[f64]) -> f64) {
    let mut x: Vec<f64> = x.iter().map(|&x| x.into()).collect();
    let largest = gradient.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    for i in 0..x.len() {
        let (at, step) = (x[i], 1e-5);
        x[i] = at + step;
        let above = f(&x);
        x[i] = at - step;
        let slope = (above - f(&x)) / (2.0 * step);
        x[i] = at;
        let error = (slope - f64::from(gradient[i])).abs() / f64::from(largest);
        assert!(error < 1e-5, "{name}[{i}]: {} is not {slope}", gradient[i]);
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

fn dot(x: &[f64], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * f64::from(*y)).sum()
}

#[test]
fn finite_differences_of_rms_norm() {
    let (rows, hidden) = (3, 21);
    let (x, gain, dy) = (noise(rows * hidden, 1), noise(hidden, 2), noise(rows * hidden, 3));
    let (mut dx, mut dgain) = (vec![0.0; x.len()], vec![0.0; hidden]);
    rms_norm_backward(&x, &gain, EPS, &dy, &mut dx, &mut dgain);
    let formula = |x: &[f64], gain: &[f64]| {
        let row = |x: &[f64]| {
            let rms =
                (x.iter().map(|x| x * x).sum::<f64>() / hidden as f64 + f64::from(EPS)).sqrt();
            x.iter().zip(gain).map(|(x, g)| x / rms * g).collect::<Vec<_>>()
        };
        dot(&x.chunks(hidden).flat_map(row).collect::<Vec<_>>(), &dy)
    };
    confirm("dx", &x, &dx, |x| formula(x, &wide(&gain)));
    confirm("dgain", &gain, &dgain, |gain| formula(&wide(&x), gain));
}

#[test]
fn finite_differences_of_layer_norm() {
    let (rows, hidden) = (3, 21);
    let (x, dy) = (noise(rows * hidden, 1), noise(rows * hidden, 3));
    let (gain, bias) = (noise(hidden, 2), noise(hidden, 4));
    let mut dx = vec![0.0; x.len()];
    let (mut dgain, mut dbias) = (vec![0.0; hidden], vec![0.0; hidden]);
    layer_norm_backward(&x, &gain, EPS, &dy, &mut dx, [&mut dgain, &mut dbias]);
    let formula = |x: &[f64], gain: &[f64], bias: &[f64]| {
        let row = |x: &[f64]| {
            let mean = x.iter().sum::<f64>() / hidden as f64;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / hidden as f64;
            let root = (variance + f64::from(EPS)).sqrt();
            let parts = x.iter().zip(gain).zip(bias);
            parts.map(|((x, g), b)| (x - mean) / root * g + b).collect::<Vec<_>>()
        };
        dot(&x.chunks(hidden).flat_map(row).collect::<Vec<_>>(), &dy)
    };
    let (wide_x, wide_gain, wide_bias) = (wide(&x), wide(&gain), wide(&bias));
    confirm("dx", &x, &dx, |x| formula(x, &wide_gain, &wide_bias));
    confirm("dgain", &gain, &dgain, |gain| formula(&wide_x, gain, &wide_bias));
    confirm("dbias", &bias, &dbias, |bias| formula(&wide_x, &wide_gain, bias));
    let mut sums = vec![0.0; hidden];
    bias_backward(&dy, &mut sums);
    assert_eq!(sums, dbias);
}

#[test]
fn finite_differences_of_the_activations() {
    let x: Vec<f32> = noise(41, 1).iter().map(|x| 6.0 * x).collect();
    let (up, dy) = (noise(41, 2), noise(41, 3));
    for f in ACTIVATIONS {
        let formula = |x: f64| match f {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Relu2 => x.max(0.0).powi(2),
            Activation::Gelu => {
                let root = (2.0 / std::f64::consts::PI).sqrt();
                x / 2.0 * (1.0 + (root * (x + 0.044_715 * x.powi(3))).tanh())
            }
        };
        let [mut dx, mut dgate, mut dup] = [(); 3].map(|()| vec![0.0; 41]);
        activate_backward(f, &x, &dy, &mut dx);
        gate_backward(f, &x, &up, &dy, &mut dgate, &mut dup);
        let alone = |x: &[f64]| dot(&x.iter().map(|x| formula(*x)).collect::<Vec<_>>(), &dy);
        let gated = |gate: &[f64], up: &[f64]| {
            dot(&gate.iter().zip(up).map(|(g, u)| formula(*g) * u).collect::<Vec<_>>(), &dy)
        };
        confirm("dx", &x, &dx, alone);
        confirm("dgate", &x, &dgate, |gate| gated(gate, &wide(&up)));
        confirm("dup", &up, &dup, |up| gated(&wide(&x), up));
    }
}

#[test]
fn finite_differences_of_cross_entropy() {
    let (vocab, targets) = (19, [3, 18, 0]);
    let logits: Vec<f32> = noise(3 * vocab, 1).iter().map(|x| 5.0 * x).collect();
    let mut gradient = logits.clone();
    let loss = cross_entropy_gradient(&mut gradient, &targets, vocab);
    assert_eq!(loss, cross_entropy(&logits, &targets, vocab));
    confirm("dlogits", &logits, &gradient, |logits| {
        let row =
            |(x, t): (&[f64], &u32)| x.iter().map(|x| x.exp()).sum::<f64>().ln() - x[*t as usize];
        logits.chunks(vocab).zip(&targets).map(row).sum::<f64>() / 3.0
    });
}

#[test]
fn finite_differences_of_attention() {
    // Without rotation a head may be odd.
    for (rotates, head_dim) in [(true, 4), (false, 3)] {
        let shape = AttentionShape { batch: 2, seq: 5, heads: 4, key_value_heads: 2, head_dim };
        let [q, k, v] = [(1, shape.q_len()), (2, shape.kv_len()), (3, shape.kv_len())]
            .map(|(seed, len)| noise(len, seed));
        let dout = noise(shape.q_len(), 4);
        let [_, dq, dk, dv] = attention_passes(shape, rotates, [&q, &k, &v], &dout);
        let formula = |q: &[f64], k: &[f64], v: &[f64]| {
            dot(&attention_formula(shape, rotates, q, k, v), &dout)
        };
        let (wide_q, wide_k, wide_v) = (wide(&q), wide(&k), wide(&v));
        confirm("dq", &q, &dq, |q| formula(q, &wide_k, &wide_v));
        confirm("dk", &k, &dk, |k| formula(&wide_q, k, &wide_v));
        confirm("dv", &v, &dv, |v| formula(&wide_q, &wide_k, v));
    }
}

fn attention_formula(
    shape: AttentionShape,
    rotates: bool,
    q: &[f64],
    k: &[f64],
    v: &[f64],
) -> Vec<f64> {
    let AttentionShape { batch, seq, heads, key_value_heads, head_dim } = shape;
    let (cos, sin) = tables(shape);
    let half = head_dim / 2;
    let rotated = |x: &[f64], heads: usize, batch: usize, i: usize, head: usize| -> Vec<f64> {
        let x = &x[((batch * seq + i) * heads + head) * head_dim..][..head_dim];
        if !rotates {
            return x.to_vec();
        }
        let turn = |j: usize| (f64::from(cos[i * half + j]), f64::from(sin[i * half + j]));
        let left = (0..half).map(|j| x[j] * turn(j).0 - x[j + half] * turn(j).1);
        left.chain((0..half).map(|j| x[j + half] * turn(j).0 + x[j] * turn(j).1)).collect()
    };
    let mut out = Vec::new();
    for b in 0..batch {
        for i in 0..seq {
            for head in 0..heads {
                let shared = head / (heads / key_value_heads);
                let query = rotated(q, heads, b, i, head);
                let weights: Vec<f64> = (0..=i)
                    .map(|j| {
                        let key = rotated(k, key_value_heads, b, j, shared);
                        let score: f64 = query.iter().zip(&key).map(|(q, k)| q * k).sum();
                        (score / (head_dim as f64).sqrt()).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                out.extend((0..head_dim).map(|d| {
                    let value =
                        |j: usize| v[((b * seq + j) * key_value_heads + shared) * head_dim + d];
                    weights.iter().enumerate().map(|(j, w)| w / total * value(j)).sum::<f64>()
                }));
            }
        }
    }
    out
}
