//! Every kernel of this CPU against the scalar one: every length to several blocks, noise and extremes,
//! slices at every alignment, and sums that depend on nothing beside them.

use crate::ternary::Kernel;

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

    /// Rows of random trits, packed as a file holds them: padding bits zero.
    fn rows(&mut self, d_output: usize, d_input: usize) -> Vec<u8> {
        pack(d_output, d_input, || (self.bits() % 3) as u8)
    }
}

fn pack(d_output: usize, d_input: usize, mut code: impl FnMut() -> u8) -> Vec<u8> {
    let mut bytes = vec![0; d_output * d_input.div_ceil(4)];
    for row in bytes.chunks_exact_mut(d_input.div_ceil(4)) {
        for i in 0..d_input {
            row[i / 4] |= code() << (2 * (i % 4));
        }
    }
    bytes
}

fn others() -> Vec<Kernel> {
    let all = Kernel::available();
    let names: Vec<_> = all.iter().map(Kernel::name).collect();
    eprintln!("kernels of this CPU: {}", names.join(", "));
    all
}

fn scalar() -> Kernel {
    Kernel::by_name("scalar").expect("every CPU has it")
}

/// Lengths to several blocks of every kernel (16 floats, 128 codes), and one beyond a widening.
fn lengths() -> impl Iterator<Item = usize> {
    (1..=300).chain([511, 512, 640, 1280, 1281, 1407, 2560, 2600, 6912])
}

/// A sum of `d_input` products in another order: each addition errs by half a unit of at most the sum of
/// magnitudes, so 1e-5 of that sum is far above what a right kernel shows.
fn assert_close(ours: &[f32], theirs: &[f32], magnitude: f32, what: &str) {
    for (a, b) in ours.iter().zip(theirs) {
        assert!((a - b).abs() <= 1e-5 * magnitude, "{what}: {a} {b}");
    }
}

#[test]
fn float_products_agree_at_every_length() {
    let mut noise = Noise(1);
    for kernel in others() {
        for d_input in lengths() {
            let (d_output, seq) = (1 + d_input % 7, 1 + d_input % 6);
            let bytes = noise.rows(d_output, d_input);
            let w: Vec<f32> = (0..d_output * d_input).map(|_| noise.float()).collect();
            let x: Vec<f32> = (0..seq * d_input).map(|_| noise.float()).collect();
            let magnitude: f32 = x.iter().map(|x| x.abs()).sum();
            let what = format!("{} {d_input}", kernel.name());
            let (mut ours, mut theirs) = (vec![9.0; seq * d_output], vec![0.0; seq * d_output]);
            kernel.matmul_f32(&bytes, d_output, d_input, &x, &mut ours);
            scalar().matmul_f32(&bytes, d_output, d_input, &x, &mut theirs);
            assert_close(&ours, &theirs, magnitude, &what);
            kernel.dense(&w, d_output, d_input, &x, &mut ours);
            scalar().dense(&w, d_output, d_input, &x, &mut theirs);
            assert_close(&ours, &theirs, magnitude, &what);
            // `w` read as rows of `d_input` columns, weighted by the first `d_output` floats.
            let (mut ours, mut theirs) = (vec![9.0; d_input], vec![0.0; d_input]);
            let weights = &noise
                .rows(1, 4 * d_output)
                .iter()
                .map(|&b| f32::from(b) / 256.0)
                .collect::<Vec<_>>();
            kernel.weighted_rows(&w, weights, &mut ours);
            scalar().weighted_rows(&w, weights, &mut theirs);
            assert_close(&ours, &theirs, d_output as f32, &what);
        }
    }
}

#[test]
fn float_products_of_whole_numbers_are_exact() {
    // Integers below 2^24 add without rounding, in any order.
    let mut noise = Noise(2);
    for kernel in others() {
        for d_input in lengths() {
            let bytes = noise.rows(3, d_input);
            let x: Vec<f32> = (0..d_input).map(|_| (noise.bits() % 255) as f32 - 127.0).collect();
            let (mut ours, mut theirs) = ([0.0; 3], [0.0; 3]);
            kernel.matvec_f32(&bytes, 3, d_input, &x, &mut ours);
            scalar().matvec_f32(&bytes, 3, d_input, &x, &mut theirs);
            assert_eq!(ours, theirs, "{} {d_input}", kernel.name());
        }
    }
}

#[test]
fn integer_products_are_exact_at_every_length() {
    let mut noise = Noise(3);
    for kernel in others() {
        for d_input in lengths() {
            let (d_output, seq) = (1 + d_input % 7, 1 + d_input % 6);
            let bytes = noise.rows(d_output, d_input);
            let x: Vec<i8> = (0..seq * d_input).map(|_| noise.bits() as i8).collect();
            let (mut ours, mut theirs) = (vec![9; seq * d_output], vec![0; seq * d_output]);
            kernel.matmul_i8(&bytes, d_output, d_input, &x, &mut ours);
            scalar().matmul_i8(&bytes, d_output, d_input, &x, &mut theirs);
            assert_eq!(ours, theirs, "{} {d_input}", kernel.name());
        }
    }
}

#[test]
fn extremes_are_exact() {
    for kernel in others() {
        for d_input in lengths() {
            for code in [0u8, 1, 2] {
                let bytes = pack(5, d_input, || code);
                let trit = i32::from(code) - 1;
                for x in [-128i8, -127, 127] {
                    let mut y = [9; 5];
                    kernel.matvec_i8(&bytes, 5, d_input, &vec![x; d_input], &mut y);
                    assert_eq!(y, [trit * i32::from(x) * d_input as i32; 5], "{}", kernel.name());
                }
            }
        }
    }
}

#[test]
fn slices_need_no_alignment() {
    let mut noise = Noise(4);
    for kernel in others() {
        for shift in 0..33 {
            for d_input in [5, 16, 128, 200, 336] {
                let bytes = [vec![0xaa; shift], noise.rows(6, d_input)].concat();
                let codes: Vec<i8> = (0..shift + d_input).map(|_| noise.bits() as i8).collect();
                let floats: Vec<f32> = codes.iter().map(|&c| f32::from(c)).collect();
                let (mut sums, mut float_sums) = (vec![0; shift + 6], vec![0.0; shift + 6]);
                kernel.matvec_i8(&bytes[shift..], 6, d_input, &codes[shift..], &mut sums[shift..]);
                kernel.matvec_f32(
                    &bytes[shift..],
                    6,
                    d_input,
                    &floats[shift..],
                    &mut float_sums[shift..],
                );
                let mut expected = [0; 6];
                scalar().matvec_i8(&bytes[shift..], 6, d_input, &codes[shift..], &mut expected);
                assert_eq!(sums[shift..], expected);
                assert_eq!(float_sums[shift..], expected.map(|sum| sum as f32));
            }
        }
    }
}

#[test]
fn a_sum_depends_on_nothing_beside_it() {
    let mut noise = Noise(5);
    for kernel in others() {
        for d_input in [1, 31, 128, 336, 341] {
            let (d_output, seq) = (11, 7);
            let bytes = noise.rows(d_output, d_input);
            let w: Vec<f32> = (0..d_output * d_input).map(|_| noise.float()).collect();
            let x: Vec<f32> = (0..seq * d_input).map(|_| noise.float()).collect();
            let (mut together, mut dense) = (vec![0.0; seq * d_output], vec![0.0; seq * d_output]);
            kernel.matmul_f32(&bytes, d_output, d_input, &x, &mut together);
            kernel.dense(&w, d_output, d_input, &x, &mut dense);
            for t in 0..seq {
                for r in 0..d_output {
                    let x = &x[t * d_input..][..d_input];
                    let row = &bytes[r * d_input.div_ceil(4)..][..d_input.div_ceil(4)];
                    let mut alone = [0.0];
                    kernel.matvec_f32(row, 1, d_input, x, &mut alone);
                    assert_eq!(alone[0].to_bits(), together[t * d_output + r].to_bits());
                    kernel.dense(&w[r * d_input..][..d_input], 1, d_input, x, &mut alone);
                    assert_eq!(alone[0].to_bits(), dense[t * d_output + r].to_bits());
                }
            }
        }
    }
}

#[test]
fn a_kernel_is_chosen_by_name_or_refused() {
    for kernel in others() {
        assert_eq!(Kernel::by_name(kernel.name()).map(|k| k.name()), Ok(kernel.name()));
    }
    let error = Kernel::by_name("neon").expect_err("not on any CPU yet").to_string();
    assert!(error.contains("neon") && error.contains("scalar"), "{error}");
    // No rows, no vectors: nothing to do, and no panic.
    for kernel in others() {
        kernel.matvec_f32(&[], 0, 3, &[0.0; 3], &mut []);
        kernel.matmul_i8(&[0; 2], 2, 3, &[], &mut []);
        kernel.dense(&[], 0, 3, &[0.0; 3], &mut []);
        kernel.weighted_rows(&[], &[], &mut []);
    }
}
