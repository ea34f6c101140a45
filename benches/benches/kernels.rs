//! The products of inference in the shapes of BitNet b1.58 2B4T, one thread, every kernel that this CPU has. Each asserts its
//! result before it measures.

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use tern_kernels::attention::{BLOCK, attend, write_key};
use tern_kernels::int8_matrix::Int8Matrix;
use tern_kernels::pool::Pool;
use tern_kernels::sparse_matrix::{PATTERNS, S24n, SparseMatrix};
use tern_kernels::ternary::Kernel;
use tern_kernels::ternary_matrix::{T2, TernaryMatrix};
use tern_kernels::tokens::{FloatTokens, Int8Tokens};

const HIDDEN: usize = 2560;
const INTERMEDIATE: usize = 6912;

/// Matrices in turn, so that each comes from memory: 106 MB of them.
const MATRICES: usize = 24;

fn noise(n: usize) -> u32 {
    let x = (n as u32).wrapping_mul(2_654_435_761);
    (x ^ x >> 15).wrapping_mul(2_246_822_519) >> 8
}

fn floats(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| noise(i + seed) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn matrix(pool: &Pool, seed: usize) -> TernaryMatrix {
    let code = |i: usize| (noise(i + seed) % 3) as u8;
    let byte = |i: usize| (0..4).fold(0, |byte, j| byte | code(4 * i + j) << (2 * j));
    let bytes: Vec<u8> = (0..INTERMEDIATE * HIDDEN / 4).map(byte).collect();
    TernaryMatrix::stack(pool, &[T2 { bytes: &bytes, d_output: INTERMEDIATE, scale: 0.02 }], HIDDEN)
}

fn per_mac(group: &mut BenchmarkGroup<'_, criterion::measurement::WallTime>, macs: usize) {
    group.throughput(Throughput::Elements(macs as u64)).sample_size(20);
}

fn ternary(criterion: &mut Criterion) {
    let pool = Pool::new(1);
    let matrices: Vec<_> = (0..MATRICES).map(|m| matrix(&pool, m << 20)).collect();
    for seq in [1, 512] {
        let x = floats(seq * HIDDEN, 7);
        let (codes, dealt) =
            (Int8Tokens::quantize(&pool, &x, HIDDEN), FloatTokens::new(&x, HIDDEN));
        let product = |kernel: &Kernel, w: &TernaryMatrix| {
            let mut y = vec![0.0; seq * INTERMEDIATE];
            kernel.ternary_int8(&pool, w, &codes, &mut y);
            y
        };
        let float_product = |kernel: &Kernel, w: &TernaryMatrix| {
            let mut y = vec![0.0; seq * INTERMEDIATE];
            kernel.ternary_f32(&pool, w, &dealt, &mut y);
            y
        };
        // The specification takes a minute for many tokens.
        let fast = Kernel::available().into_iter().filter(|kernel| kernel.name() != "scalar");
        let specification = Kernel::by_name("scalar").expect("it is always there");
        let mut group = criterion.benchmark_group(format!("ternary, {seq} tokens"));
        per_mac(&mut group, seq * HIDDEN * INTERMEDIATE);
        for kernel in fast {
            if seq == 1 {
                let (ints, floats) = (
                    product(&specification, &matrices[0]),
                    float_product(&specification, &matrices[0]),
                );
                assert!(product(&kernel, &matrices[0]) == ints, "{} is exact", kernel.name());
                assert!(
                    float_product(&kernel, &matrices[0]) == floats,
                    "{} is exact",
                    kernel.name()
                );
            } else {
                let alone = Int8Tokens::quantize(&pool, &x[..HIDDEN], HIDDEN);
                let mut first = vec![0.0; INTERMEDIATE];
                kernel.ternary_int8(&pool, &matrices[0], &alone, &mut first);
                assert!(
                    product(&kernel, &matrices[0])[..INTERMEDIATE] == first,
                    "{}",
                    kernel.name()
                );
            }
            let mut turn = 0;
            group.bench_function(format!("int8 {}, from memory", kernel.name()), |bencher| {
                bencher.iter(|| {
                    turn += 1;
                    product(&kernel, black_box(&matrices[turn % MATRICES]))
                });
            });
            group.bench_function(format!("int8 {}, in cache", kernel.name()), |bencher| {
                bencher.iter(|| product(&kernel, black_box(&matrices[0])));
            });
            group.bench_function(format!("f32 {}, in cache", kernel.name()), |bencher| {
                bencher.iter(|| float_product(&kernel, black_box(&matrices[0])));
            });
        }
    }
}

/// A matrix of random groups of four, dense and 2:4.
fn pair(
    pool: &Pool,
    d_output: usize,
    d_input: usize,
    seed: usize,
) -> (TernaryMatrix, SparseMatrix) {
    let codes: Vec<u64> =
        (0..d_output * d_input / 4).map(|g| u64::from(noise(g + seed) % 32)).collect();
    let group = |code: u64| {
        let trits = PATTERNS[code as usize].iter().enumerate();
        trits.fold(0, |byte, (j, trit)| byte | ((trit + 1) as u8) << (2 * j))
    };
    let dense: Vec<u8> = codes.iter().map(|&code| group(code)).collect();
    let word = |codes: &[u64]| {
        let word = codes.iter().rev().fold(0, |word, code| word << 5 | code);
        word.to_le_bytes().into_iter().take(5)
    };
    // Rows of a multiple of 32, so that a word of eight codes ends in none.
    let sparse: Vec<u8> = codes.chunks(8).flat_map(word).collect();
    let scale = 0.02;
    (
        TernaryMatrix::stack(pool, &[T2 { bytes: &dense, d_output, scale }], d_input),
        SparseMatrix::stack(pool, &[S24n { bytes: &sparse, d_output, scale }], d_input),
    )
}

/// 2:4 products beside the dense ones of the same trits, on the kernels that have them.
fn two_four(criterion: &mut Criterion) {
    let pool = Pool::new(1);
    let kernels: Vec<_> = Kernel::available().into_iter().filter(Kernel::prefers_sparse).collect();
    for (d_output, d_input) in [(INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)] {
        // Twice as many, for they are little more than half as large.
        let pairs: Vec<_> =
            (0..2 * MATRICES).map(|m| pair(&pool, d_output, d_input, m << 20)).collect();
        for (kernel, seq) in kernels.iter().flat_map(|kernel| [1, 8, 12].map(|seq| (kernel, seq))) {
            let x = Int8Tokens::quantize(&pool, &floats(seq * d_input, 7), d_input);
            let dense = |w: &TernaryMatrix| {
                let mut y = vec![0.0; seq * d_output];
                kernel.ternary_int8(&pool, w, &x, &mut y);
                y
            };
            let sparse = |w: &SparseMatrix| {
                let mut y = vec![0.0; seq * d_output];
                kernel.sparse_int8(&pool, w, &x, &mut y);
                y
            };
            let equal = |(d, s): &(_, _)| dense(d) == sparse(s);
            assert!(pairs.iter().all(equal), "{} is exact", kernel.name());
            let title = format!("2:4 {}, {d_output} x {d_input}, {seq} tokens", kernel.name());
            let mut group = criterion.benchmark_group(title);
            per_mac(&mut group, seq * d_input * d_output);
            for (place, count) in [("from memory", pairs.len()), ("in cache", 1)] {
                let mut turn = 0;
                group.bench_function(format!("dense, {place}"), |bencher| {
                    bencher.iter(|| {
                        turn += 1;
                        dense(black_box(&pairs[turn % count].0))
                    });
                });
                group.bench_function(format!("s24n, {place}"), |bencher| {
                    bencher.iter(|| {
                        turn += 1;
                        sparse(black_box(&pairs[turn % count].1))
                    });
                });
            }
        }
    }
}

fn head(criterion: &mut Criterion) {
    const VOCAB: usize = 32_000;
    let pool = Pool::new(1);
    let (rows, x) = (floats(VOCAB * HIDDEN, 1), floats(HIDDEN, 2));
    let w = Int8Matrix::quantize(&pool, VOCAB, HIDDEN, |r, row| {
        row.copy_from_slice(&rows[r * HIDDEN..][..HIDDEN]);
    });
    let tokens = Int8Tokens::quantize(&pool, &x, HIDDEN);
    let kernel = Kernel::detect().expect("a kernel");
    let mut exact = vec![0.0; VOCAB];
    kernel.dense(&rows, VOCAB, HIDDEN, &x, &mut exact);
    let best = (0..VOCAB).max_by(|&a, &b| exact[a].total_cmp(&exact[b])).expect("rows");
    let look = || {
        let mut approximate = vec![0.0; VOCAB];
        kernel.int8_rows(&pool, &w, &tokens, &mut approximate);
        w.candidates(&x, &tokens, &approximate, 1)
    };
    assert!(look().contains(&best), "the largest is among the candidates");
    let mut group = criterion.benchmark_group("head");
    per_mac(&mut group, VOCAB * HIDDEN);
    group.bench_function("int8 rows and candidates", |bencher| bencher.iter(look));
    group.bench_function("f32 rows", |bencher| {
        bencher.iter(|| kernel.dense(black_box(&rows), VOCAB, HIDDEN, &x, &mut exact));
    });
}

fn attention(criterion: &mut Criterion) {
    const HEAD_DIM: usize = 128;
    const SEEN: usize = 512;
    let mut keys = vec![0.0; SEEN.next_multiple_of(BLOCK) * HEAD_DIM];
    let rows = floats(SEEN * HEAD_DIM, 3);
    rows.chunks_exact(HEAD_DIM).enumerate().for_each(|(t, key)| write_key(&mut keys, t, key));
    let values = floats(SEEN * HEAD_DIM, 4);
    let mut group = criterion.benchmark_group("attention, 512 tokens seen");
    for queries in [1, 16] {
        let q = floats(queries * HEAD_DIM, 5);
        let mut out = vec![0.0; q.len()];
        let seen = vec![SEEN; queries];
        attend(&q, &seen, &keys, &values, &mut out);
        // A query reads the same beside others.
        let mut alone = vec![0.0; HEAD_DIM];
        attend(&q[..HEAD_DIM], &seen[..1], &keys, &values, &mut alone);
        assert!(alone == out[..HEAD_DIM]);
        per_mac(&mut group, 2 * queries * SEEN * HEAD_DIM);
        group.bench_function(format!("{queries} queries"), |bencher| {
            bencher.iter(|| attend(black_box(&q), &seen, &keys, &values, &mut out));
        });
    }
}

criterion_group!(benches, ternary, two_four, head, attention);
criterion_main!(benches);
