//! Every kernel of this CPU against the scalar one: every length to several blocks, noise and extremes, every tail of rows
//! and tokens, any number of threads, and sums that depend on nothing beside them.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::Arch;
use crate::int8_matrix::Int8Matrix;
use crate::pool::Pool;
use crate::sparse_matrix::{PATTERNS, S24n, SparseMatrix};
use crate::ternary::Kernel;
use crate::ternary_matrix::{T2, TernaryMatrix};
use crate::tokens::{FloatTokens, Int8Tokens};

/// Numbers from a fixed seed (xorshift64*, Vigna 2016).
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// Uniform in [-1, 1).
    fn float(&mut self) -> f32 {
        self.bits() as f32 / 2f32.powi(31) - 1.0
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }

    fn trits(&mut self, count: usize) -> Vec<i8> {
        (0..count).map(|_| (self.bits() % 3) as i8 - 1).collect()
    }
}

/// A matrix of these trits.
fn matrix(trits: &[i8], d_input: usize, scale: f32) -> TernaryMatrix {
    let row_bytes = d_input.div_ceil(4);
    let d_output = trits.len() / d_input;
    let mut bytes = vec![0; d_output * row_bytes];
    for (row, trits) in bytes.chunks_exact_mut(row_bytes).zip(trits.chunks_exact(d_input)) {
        for (i, trit) in trits.iter().enumerate() {
            row[i / 4] |= ((trit + 1) as u8) << (2 * (i % 4));
        }
    }
    TernaryMatrix::stack(&Pool::new(1), &[T2 { bytes: &bytes, d_output, scale }], d_input)
}

/// A 2:4 matrix of groups of these codes, as such and as a dense one; its trits.
fn two_four(codes: &[usize], d_input: usize, scale: f32) -> (SparseMatrix, TernaryMatrix, Vec<i8>) {
    let groups = d_input / 4;
    let row_bytes = (5 * groups).div_ceil(8);
    let d_output = codes.len() / groups;
    let mut bytes = vec![0; d_output * row_bytes];
    for (row, codes) in bytes.chunks_exact_mut(row_bytes).zip(codes.chunks_exact(groups)) {
        for (bit, byte) in (0..5 * groups).map(|bit| (bit, bit / 8)) {
            row[byte] |= ((codes[bit / 5] >> (bit % 5) & 1) as u8) << (bit % 8);
        }
    }
    let trits: Vec<i8> = codes.iter().flat_map(|&code| PATTERNS[code]).collect();
    let sparse =
        SparseMatrix::stack(&Pool::new(1), &[S24n { bytes: &bytes, d_output, scale }], d_input);
    (sparse, matrix(&trits, d_input, scale), trits)
}

/// Lengths of rows of whole groups: to several blocks of 64, and some beyond a widening of 16-bit sums.
fn group_lengths() -> impl Iterator<Item = usize> {
    (1..=50)
        .map(|groups| 4 * groups)
        .chain([248, 256, 444, 448, 452, 512, 896, 900, 1284, 2560, 6912])
}

#[test]
fn products_of_two_four_are_exact_at_every_length() {
    let mut noise = Noise(8);
    let pool = Pool::new(1);
    for kernel in all() {
        for d_input in group_lengths() {
            for seq in [1 + d_input / 4 % 11, 12 + d_input / 4 % 7] {
                let d_output = 1 + d_input * 7 % 130;
                let codes: Vec<usize> =
                    (0..d_output * d_input / 4).map(|_| noise.bits() as usize % 32).collect();
                let (w, _, trits) = two_four(&codes, d_input, 1.0);
                let mut x: Vec<i8> = (0..seq * d_input).map(|_| noise.bits() as i8).collect();
                // A token of extremes.
                x[..d_input].fill(-128);
                let tokens = Int8Tokens::new(&x, vec![1.0; seq], d_input);
                let mut y = vec![f32::NAN; seq * d_output];
                kernel.sparse_int8(&pool, &w, &tokens, &mut y);
                assert_eq!(y, int8_products(&trits, &x, d_input), "{} {d_input}", kernel.name());
            }
        }
    }
}

#[test]
fn extremes_of_two_four_are_exact() {
    let pool = Pool::new(1);
    for kernel in all() {
        for d_input in group_lengths() {
            for (code, sum) in [(0, 2), (3, -2), (24, 1), (25, -1)] {
                let (w, ..) = two_four(&vec![code; 3 * d_input / 4], d_input, 1.0);
                for x in [-128i8, -127, 127] {
                    let tokens = Int8Tokens::new(&vec![x; d_input], vec![1.0], d_input);
                    let mut y = [f32::NAN; 3];
                    kernel.sparse_int8(&pool, &w, &tokens, &mut y);
                    let expected = sum * i32::from(x) * d_input as i32 / 4;
                    assert_eq!(y, [expected as f32; 3], "{} {d_input}", kernel.name());
                }
            }
        }
    }
}

#[test]
fn two_four_gives_the_bits_of_the_dense_matrix_on_any_number_of_threads() {
    let mut noise = Noise(9);
    let pools = [Pool::new(1), Pool::new(2), Pool::new(5)];
    for kernel in all() {
        // The scalar kernel is slow.
        let shapes: &[_] = match kernel.name() {
            "scalar" => &[(37, 132, 3), (70, 256, 13)],
            _ => &[(37, 132, 3), (1_037, 1_000, 1), (1_037, 1_000, 29)],
        };
        for &(d_output, d_input, seq) in shapes {
            let codes: Vec<usize> =
                (0..d_output * d_input / 4).map(|_| noise.bits() as usize % 32).collect();
            let (sparse, dense, _) = two_four(&codes, d_input, 0.37);
            let floats = noise.floats(seq * d_input);
            let int8 = Int8Tokens::quantize(&pools[1], &floats, d_input);
            let floats = FloatTokens::new(&floats, d_input);
            let mut expected = [vec![0.0; seq * d_output], vec![0.0; seq * d_output]];
            kernel.ternary_int8(&pools[0], &dense, &int8, &mut expected[0]);
            kernel.ternary_f32(&pools[0], &dense, &floats, &mut expected[1]);
            for pool in &pools {
                let mut y = [vec![f32::NAN; seq * d_output], vec![f32::NAN; seq * d_output]];
                kernel.sparse_int8(pool, &sparse, &int8, &mut y[0]);
                kernel.sparse_f32(pool, &sparse, &floats, &mut y[1]);
                for (y, expected) in y.iter().zip(&expected) {
                    assert!(bits(y) == bits(expected), "{} {d_output} {seq}", kernel.name());
                }
            }
        }
    }
}

/// Those of this CPU, and those whose instructions are emulated where it lacks them.
fn all() -> Vec<Kernel> {
    #[allow(unused_mut, reason = "elsewhere nothing is emulated")]
    let mut all = Kernel::available();
    let names: Vec<_> = all.iter().map(Kernel::name).collect();
    let lacking = Kernel::unavailable();
    eprintln!("kernels of this CPU: {}; not on it: {}", names.join(", "), lacking.join(", "));
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        all.push(Kernel::of(&super::amx::tests::EMULATED));
        eprintln!("emulated: {}", super::amx::tests::EMULATED.name());
    }
    all
}

fn scalar() -> Kernel {
    Kernel::by_name("scalar").expect("every CPU has it")
}

/// Lengths to several blocks of every kernel, and some beyond a widening of 16-bit sums.
fn lengths() -> impl Iterator<Item = usize> {
    (1..=100).chain([127, 128, 239, 240, 241, 255, 336, 480, 481, 512, 640, 1281, 2560, 6912])
}

/// Products of codes, summed as the definition says.
fn int8_products(trits: &[i8], codes: &[i8], d_input: usize) -> Vec<f32> {
    let product = |token: &[i8], row: &[i8]| {
        token.iter().zip(row).map(|(&x, &w)| i32::from(x) * i32::from(w)).sum::<i32>() as f32
    };
    codes
        .chunks_exact(d_input)
        .flat_map(|token| trits.chunks_exact(d_input).map(move |row| product(token, row)))
        .collect()
}

#[test]
fn integer_products_are_exact_at_every_length() {
    let mut noise = Noise(3);
    let pool = Pool::new(1);
    for kernel in all() {
        for d_input in lengths() {
            let (d_output, seq) = (1 + d_input * 7 % 130, 1 + d_input % 18);
            let trits = noise.trits(d_output * d_input);
            let codes: Vec<i8> = (0..seq * d_input).map(|_| noise.bits() as i8).collect();
            let w = matrix(&trits, d_input, 1.0);
            let x = Int8Tokens::new(&codes, vec![1.0; seq], d_input);
            let mut y = vec![f32::NAN; seq * d_output];
            kernel.ternary_int8(&pool, &w, &x, &mut y);
            assert_eq!(y, int8_products(&trits, &codes, d_input), "{} {d_input}", kernel.name());
        }
    }
}

/// Around what a kernel takes of them at once, and around a part of its depth.
#[test]
fn integer_products_of_many_tokens_are_exact() {
    let mut noise = Noise(8);
    let pool = Pool::new(2);
    for kernel in all() {
        for (d_output, d_input) in [(1, 1), (16, 64), (40, 63), (33, 65), (100, 300), (65, 1_100)] {
            let w = noise.trits(d_output * d_input);
            for seq in [15, 16, 17, 31, 32, 33, 64, 127, 128, 129, 161, 300] {
                let codes: Vec<i8> = (0..seq * d_input).map(|_| noise.bits() as i8).collect();
                let x = Int8Tokens::new(&codes, vec![1.0; seq], d_input);
                let mut y = vec![f32::NAN; seq * d_output];
                kernel.ternary_int8(&pool, &matrix(&w, d_input, 1.0), &x, &mut y);
                let expected = int8_products(&w, &codes, d_input);
                assert!(y == expected, "{} {d_output} x {d_input}, {seq} tokens", kernel.name());
            }
        }
    }
}

#[test]
fn extremes_are_exact() {
    let pool = Pool::new(1);
    for kernel in all() {
        for d_input in lengths() {
            for trit in [-1, 0, 1] {
                let w = matrix(&vec![trit; 5 * d_input], d_input, 1.0);
                for code in [-128i8, -127, 127] {
                    let codes = vec![code; 5 * d_input];
                    let x = Int8Tokens::new(&codes, vec![1.0; 5], d_input);
                    let mut y = [f32::NAN; 25];
                    kernel.ternary_int8(&pool, &w, &x, &mut y);
                    let expected = i32::from(trit) * i32::from(code) * d_input as i32;
                    assert_eq!(y, [expected as f32; 25], "{} {d_input}", kernel.name());
                }
            }
        }
    }
}

#[test]
fn ternary_float_products_are_the_scalar_ones_to_the_bit() {
    let mut noise = Noise(1);
    let pool = Pool::new(1);
    for kernel in all() {
        for d_input in lengths() {
            let (d_output, seq) = (1 + d_input * 7 % 130, 1 + d_input % 18);
            let w = matrix(&noise.trits(d_output * d_input), d_input, 0.37);
            let x = FloatTokens::new(&noise.floats(seq * d_input), d_input);
            let (mut ours, mut theirs) =
                (vec![f32::NAN; seq * d_output], vec![0.0; seq * d_output]);
            kernel.ternary_f32(&pool, &w, &x, &mut ours);
            scalar().ternary_f32(&pool, &w, &x, &mut theirs);
            assert_eq!(bits(&ours), bits(&theirs), "{} {d_input}", kernel.name());
        }
    }
}

#[test]
fn scales_come_after_the_sums() {
    let pool = Pool::new(1);
    let trits: Vec<i8> = vec![1, 1, 0, -1, 0, 1];
    let bytes = [0b01_1010, 0b10_0100];
    let parts = [
        T2 { bytes: &bytes[..1], d_output: 1, scale: 0.3 },
        T2 { bytes: &bytes[1..], d_output: 1, scale: 0.7 },
    ];
    let w = TernaryMatrix::stack(&Pool::new(1), &parts, 3);
    let codes = [5i8, -7, 9, 1, 2, 3];
    let sums = int8_products(&trits, &codes, 3);
    for kernel in all() {
        let x = Int8Tokens::new(&codes, vec![0.1, 0.2], 3);
        let mut y = [0.0; 4];
        kernel.ternary_int8(&pool, &w, &x, &mut y);
        let expected =
            [sums[0] * 0.3 * 0.1, sums[1] * 0.7 * 0.1, sums[2] * 0.3 * 0.2, sums[3] * 0.7 * 0.2];
        assert_eq!(y, expected, "{}", kernel.name());
    }
}

#[test]
fn threads_and_neighbours_change_no_bit() {
    let mut noise = Noise(5);
    let (d_output, d_input, seq) = (1_037, 1_000, 29);
    let w = matrix(&noise.trits(d_output * d_input), d_input, 0.37);
    let floats = noise.floats(seq * d_input);
    let (alone, pools) = (Pool::new(1), [Pool::new(2), Pool::new(5)]);
    for kernel in all() {
        if kernel.name() == "scalar" {
            // It is what the others are held to, and slow.
            continue;
        }
        let run = |pool: &Pool, x: &[f32]| {
            let seq = x.len() / d_input;
            let (mut int8, mut float) = (vec![0.0; seq * d_output], vec![0.0; seq * d_output]);
            kernel.ternary_int8(pool, &w, &Int8Tokens::quantize(pool, x, d_input), &mut int8);
            kernel.ternary_f32(pool, &w, &FloatTokens::new(x, d_input), &mut float);
            (bits(&int8), bits(&float))
        };
        let together = run(&alone, &floats);
        for pool in &pools {
            assert!(run(pool, &floats) == together, "{}", kernel.name());
        }
        for t in 0..seq {
            let (int8, float) = run(&alone, &floats[t * d_input..][..d_input]);
            assert!(int8 == together.0[t * d_output..][..d_output], "{} token {t}", kernel.name());
            assert!(float == together.1[t * d_output..][..d_output], "{} token {t}", kernel.name());
        }
    }
}

/// Every code from -127 to 127 in a matrix: a row's largest is 127, so its scale is 1.
fn int8_matrix(codes: &[i8], d_input: usize) -> Int8Matrix {
    Int8Matrix::quantize(&Pool::new(2), codes.len() / d_input, d_input, |r, row| {
        let codes = &codes[r * d_input..][..d_input];
        row.iter_mut().zip(codes).for_each(|(value, &code)| *value = f32::from(code));
    })
}

#[test]
fn products_of_int8_rows_are_exact_at_every_length() {
    let mut noise = Noise(6);
    let pool = Pool::new(1);
    for kernel in all() {
        for d_input in lengths() {
            let (d_output, seq) = (1 + d_input * 7 % 130, 1 + d_input % 18);
            let mut rows: Vec<i8> = (0..d_output * d_input)
                .map(|_| (noise.bits() % 255) as i32 - 127)
                .map(|c| c as i8)
                .collect();
            rows.chunks_exact_mut(d_input)
                .for_each(|row| row[0] = if row[0] < 0 { -127 } else { 127 });
            let mut codes: Vec<i8> = (0..seq * d_input).map(|_| noise.bits() as i8).collect();
            // A token of extremes.
            codes[..d_input].fill(-128);
            let w = int8_matrix(&rows, d_input);
            let x = Int8Tokens::new(&codes, vec![1.0; seq], d_input);
            let mut y = vec![f32::NAN; seq * d_output];
            kernel.int8_rows(&pool, &w, &x, &mut y);
            assert_eq!(y, int8_products(&rows, &codes, d_input), "{} {d_input}", kernel.name());
        }
    }
}

#[test]
fn the_largest_products_are_among_the_candidates_and_they_are_few() {
    let mut noise = Noise(7);
    let pool = Pool::new(1);
    let kernel = Kernel::detect().expect("a kernel");
    let (d_output, d_input) = (5_000, 192);
    let rows = noise.floats(d_output * d_input);
    let w = Int8Matrix::quantize(&Pool::new(2), d_output, d_input, |r, row| {
        row.copy_from_slice(&rows[r * d_input..][..d_input]);
    });
    for trial in 0..20 {
        let x = noise.floats(d_input);
        let mut exact = vec![0.0; d_output];
        kernel.dense(&rows, d_output, d_input, &x, &mut exact);
        let codes = Int8Tokens::quantize(&pool, &x, d_input);
        let mut approximate = vec![0.0; d_output];
        kernel.int8_rows(&pool, &w, &codes, &mut approximate);
        let mut order: Vec<usize> = (0..d_output).collect();
        order.sort_by(|&a, &b| exact[b].total_cmp(&exact[a]).then(a.cmp(&b)));
        for count in [1, 2, 40] {
            let found = w.candidates(&x, &codes, &approximate, count);
            assert!(order[..count].iter().all(|r| found.contains(r)), "trial {trial}, {count}");
            assert!(found.len() <= 2 * count + d_output / 20, "{} for {count}", found.len());
        }
        assert_eq!(w.candidates(&x, &codes, &approximate, 100).len(), d_output);
    }
    // Equal rows stay together, and nothing is left out for being no number.
    let w = Int8Matrix::quantize(&Pool::new(2), 50, 4, |r, row| {
        row.fill(if r % 2 == 0 { 1.0 } else { 0.5 })
    });
    let x = [1.0; 4];
    let codes = Int8Tokens::quantize(&pool, &x, 4);
    let mut approximate = vec![0.0; 50];
    kernel.int8_rows(&pool, &w, &codes, &mut approximate);
    assert_eq!(w.candidates(&x, &codes, &approximate, 1).len(), 25);
    approximate[7] = f32::NAN;
    assert!(w.candidates(&x, &codes, &approximate, 1).contains(&7));
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A sum of products in another order: each addition errs by half a unit of at most the sum of magnitudes, so 1e-5 of that
/// sum is far above what a right kernel shows.
fn assert_close(ours: &[f32], theirs: &[f32], magnitude: f32, what: &str) {
    for (a, b) in ours.iter().zip(theirs) {
        assert!((a - b).abs() <= 1e-5 * magnitude, "{what}: {a} {b}");
    }
}

#[test]
fn float_products_agree_at_every_length() {
    let mut noise = Noise(2);
    for kernel in all() {
        for d_input in lengths() {
            let (d_output, seq) = (1 + d_input % 7, 1 + d_input % 6);
            let w = noise.floats(d_output * d_input);
            let x = noise.floats(seq * d_input);
            let magnitude: f32 = x.iter().map(|x| x.abs()).sum();
            let what = format!("{} {d_input}", kernel.name());
            let (mut ours, mut theirs) = (vec![9.0; seq * d_output], vec![0.0; seq * d_output]);
            kernel.dense(&w, d_output, d_input, &x, &mut ours);
            scalar().dense(&w, d_output, d_input, &x, &mut theirs);
            assert_close(&ours, &theirs, magnitude, &what);
            for (t, x) in x.chunks_exact(d_input).enumerate() {
                let mut alone = [0.0];
                kernel.dense(&w[..d_input], 1, d_input, x, &mut alone);
                assert_eq!(alone[0].to_bits(), ours[t * d_output].to_bits(), "{what}");
            }
        }
    }
}

#[test]
fn a_kernel_is_chosen_by_name_or_refused() {
    for kernel in Kernel::available() {
        assert_eq!(Kernel::by_name(kernel.name()).map(|k| k.name()), Ok(kernel.name()));
    }
    let error = Kernel::by_name("abacus").expect_err("not on any CPU").to_string();
    assert!(error.contains("abacus") && error.contains("scalar"), "{error}");
    // No rows, no tokens: nothing to do, and no panic.
    let pool = Pool::new(2);
    for kernel in all() {
        kernel.ternary_f32(&pool, &matrix(&[], 3, 1.0), &FloatTokens::new(&[0.0; 3], 3), &mut []);
        kernel.ternary_int8(
            &pool,
            &matrix(&[1; 6], 3, 1.0),
            &Int8Tokens::quantize(&pool, &[], 3),
            &mut [],
        );
        let none = Int8Tokens::quantize(&pool, &[], 4);
        kernel.sparse_int8(&pool, &two_four(&[1; 6], 4, 1.0).0, &none, &mut []);
        let one = Int8Tokens::quantize(&pool, &[1.0; 4], 4);
        kernel.sparse_int8(&pool, &two_four(&[], 4, 1.0).0, &one, &mut []);
        kernel.dense(&[], 0, 3, &[0.0; 3], &mut []);
    }
}
