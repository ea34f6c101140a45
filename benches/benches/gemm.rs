//! The products of training, in f32 and bf16, on all cores: `y = x w^T`, `dx = dy w` and `dw = dy^T x` in the shapes of
//! BitLM, BitGPT and GPT-2. Each asserts its result before it measures.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tern_kernels::train::bf16::Bf16;
use tern_kernels::train::gemm::{Matrix, matmul};

/// Rows, `d_input`, `d_output`.
const SHAPES: [(&str, usize, usize, usize); 7] = [
    ("BitLM", 8192, 128, 128),
    ("BitLM", 8192, 128, 336),
    ("BitGPT", 1024, 256, 1024),
    ("BitGPT", 1024, 256, 49152),
    ("GPT-2", 1024, 768, 768),
    ("GPT-2", 1024, 768, 3072),
    ("GPT-2", 1024, 768, 50257),
];

fn floats(count: usize, seed: usize) -> Vec<f32> {
    let noise = |n: usize| {
        let x = (n as u32).wrapping_mul(2_654_435_761);
        (x ^ x >> 15).wrapping_mul(2_246_822_519) >> 8
    };
    (0..count).map(|i| noise(i + seed) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// A row-major matrix, or its transpose.
#[derive(Clone, Copy)]
struct Side<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    transposed: bool,
}

impl<'a> Side<'a> {
    fn matrix(self) -> Matrix<'a> {
        let matrix = Matrix::new(self.values, self.rows, self.cols);
        if self.transposed { matrix.transposed() } else { matrix }
    }

    fn turned(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    fn at(self, row: usize, col: usize) -> f64 {
        let (row, col) = if self.transposed { (col, row) } else { (row, col) };
        self.values[row * self.cols + col].into()
    }
}

/// Some entries against sums in f64. Rounding of the sides moves a summand by `unit` of its size; the rest is Higham's bound
/// of a sum.
fn check(a: Side<'_>, b: Side<'_>, inner: usize, cols: usize, out: &[f32], unit: f64) {
    for i in (0..out.len()).step_by(out.len() / 97 + 1) {
        let terms = (0..inner).map(|p| a.at(i / cols, p) * b.at(p, i % cols));
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
        let unit = unit + (inner + 2) as f64 * 0.5_f64.powi(24);
        assert!((f64::from(out[i]) - sum).abs() <= unit * size, "entry {i}: {} {sum}", out[i]);
    }
}

fn gemm(criterion: &mut Criterion) {
    let bf16 = Bf16::detect();
    for (model, rows, d_input, d_output) in SHAPES {
        let x = floats(rows * d_input, 1);
        let w = floats(d_output * d_input, 2);
        let dy = floats(rows * d_output, 3);
        let [x, w, dy] = [(&x, rows, d_input), (&w, d_output, d_input), (&dy, rows, d_output)]
            .map(|(values, rows, cols)| Side { values, rows, cols, transposed: false });
        for (name, a, b, [m, k, n]) in [
            ("y", x, w.turned(), [rows, d_input, d_output]),
            ("dx", dy, w, [rows, d_output, d_input]),
            ("dw", dy.turned(), x, [d_output, rows, d_input]),
        ] {
            let mut out = vec![0.0; m * n];
            let mut group = criterion
                .benchmark_group(format!("{model} {name}, {rows} x {d_input} x {d_output}"));
            group.throughput(Throughput::Elements((m * k * n) as u64)).sample_size(10);
            matmul(a.matrix(), b.matrix(), &mut out);
            check(a, b, k, n, &out, 0.0);
            group.bench_function("f32", |bencher| {
                bencher.iter(|| matmul(black_box(a.matrix()), b.matrix(), &mut out));
            });
            if let Some(bf16) = bf16 {
                bf16.matmul(a.matrix(), b.matrix(), &mut out);
                check(a, b, k, n, &out, 0.5_f64.powi(7) + 0.5_f64.powi(16));
                group.bench_function(bf16.name(), |bencher| {
                    bencher.iter(|| bf16.matmul(black_box(a.matrix()), b.matrix(), &mut out));
                });
            }
        }
    }
}

criterion_group!(benches, gemm);
criterion_main!(benches);
