//! Products of f32 matrices whose entries are rounded to bf16, summed in f32.
//!
//! bf16 is the upper half of an f32: its range, with eight bits of precision. Both sides are rounded to nearest, halves to
//! even, while they are packed (numbers below the smallest normal one become zeros, NaN stays NaN); products of two such
//! numbers are exact in f32, and are summed by the CPU's own instruction, which adds two at a time.
//!
//! What is promised:
//!
//! - An entry depends on its row, its column, the order of the inner index and the kernel alone: the same bytes for any number
//!   of threads, for every layout of the sides, and whatever is computed beside it.
//! - `avx512_bf16` adds the pairs of the inner index one after the other: `sum = x0 y0 + (x1 y1 + sum)`, two fused
//!   multiply-adds, of which the first has the odd entry. `amx_bf16` makes a sum of the even and one of the odd entries of
//!   each 32, and adds the sum of both. So says Intel's manual of `vdpbf16ps` and `tdpbf16ps`, and AMD's Zen 5 does the same; what
//!   is too small for a normal number becomes zero at every addition. Bytes differ between the two kernels.
//! - Either is near the exact product of the rounded sides: with an inner side of `k` a summand takes part in at most `k + 2`
//!   roundings, so the error is at most `g * sum |a| |b|` with `g = (k + 2) u / (1 - (k + 2) u)`, `u = 2^-24` (N. J.
//!   Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), and `2^-126` for each of at most `3 k` sums that
//!   became zero. What [`Bf16::matmul_add`] adds to is one more summand.
//! - Rounding of the sides moves the product by at most `(2^-7 + 2^-16) * sum |a| |b|`, unless entries were too small or too
//!   large for a bf16.

use crate::gemm::Matrix;

/// Exists only where the CPU multiplies bf16.
#[derive(Clone, Copy, Debug)]
pub struct Bf16(Kernel);

#[derive(Clone, Copy, Debug)]
enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512(crate::arch::Avx512Bf16),
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx(crate::arch::AmxBf16),
}

impl Bf16 {
    /// The fastest kernel of this CPU; `None` if it has none, and products stay in f32.
    pub fn detect() -> Option<Self> {
        Self::available().into_iter().next_back()
    }

    /// What this CPU has, the fastest last.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "elsewhere there is none")]
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        kernels.extend(crate::arch::Avx512Bf16::new().map(|kernel| Self(Kernel::Avx512(kernel))));
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        kernels.extend(crate::arch::AmxBf16::new().map(|kernel| Self(Kernel::Amx(kernel))));
        kernels
    }

    /// The instruction set: `avx512_bf16` or `amx_bf16`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(_) => "avx512_bf16",
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Kernel::Amx(_) => "amx_bf16",
        }
    }

    /// `out = a * b`, in parallel; see the head of this module.
    ///
    /// # Shapes
    ///
    /// - `a`: `[m, k]`
    /// - `b`: `[k, n]`
    /// - `out`: `[m, n]`, row-major
    ///
    /// # Panics
    ///
    /// If the shapes disagree.
    pub fn matmul(self, a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) {
        self.product(a, b, out, false);
    }

    /// `out += a * b`; shapes as in [`Bf16::matmul`].
    pub fn matmul_add(self, a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) {
        self.product(a, b, out, true);
    }

    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables, reason = "there is no value"))]
    fn product(self, a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], accumulate: bool) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(kernel) => super::blocking::product(kernel, a, b, out, accumulate),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Kernel::Amx(kernel) => super::blocking::product(kernel, a, b, out, accumulate),
        }
    }
}

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests {
    use super::*;
    use crate::arch::{AmxBf16, Emulated};
    use crate::train::blocking;
    use crate::train::tests::noise;

    /// Every kernel that this CPU can run or imitate.
    #[derive(Clone, Copy, Debug)]
    enum Tested {
        Found(Bf16),
        Emulated(AmxBf16<Emulated>),
    }

    impl Tested {
        fn all() -> Vec<Self> {
            let found = Bf16::available().into_iter().map(Self::Found);
            let all: Vec<_> = found.chain(AmxBf16::emulated().map(Self::Emulated)).collect();
            if all.is_empty() {
                eprintln!("skipped: this CPU has no products of bf16");
            }
            all
        }

        fn product(self, a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], accumulate: bool) {
            match self {
                Self::Found(kernel) => kernel.product(a, b, out, accumulate),
                Self::Emulated(kernel) => blocking::product(kernel, a, b, out, accumulate),
            }
        }

        /// The specification: `sum + x * y`, the entries rounded.
        fn chain(self, sum: f32, x: &[f32], y: &[f32]) -> f32 {
            let add = |sum, (x, y): (&f32, &f32)| normal(x.mul_add(*y, sum));
            if matches!(self, Self::Found(Bf16(Kernel::Avx512(_)))) {
                let pairs = x.chunks(2).zip(y.chunks(2));
                return pairs.fold(normal(sum), |sum, (x, y)| x.iter().zip(y).rev().fold(sum, add));
            }
            x.chunks(32).zip(y.chunks(32)).fold(normal(sum), |sum, (x, y)| {
                let every_other = |odd| x.iter().zip(y).skip(odd).step_by(2).fold(0.0, add);
                normal(sum + normal(every_other(0) + every_other(1)))
            })
        }
    }

    /// What is too small for a normal number becomes zero.
    fn normal(x: f32) -> f32 {
        if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
    }

    /// The specification of rounding.
    fn round(x: f32) -> f32 {
        if x.is_nan() {
            return x;
        }
        let bits = normal(x).to_bits();
        f32::from_bits((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000)
    }

    /// Inner sides around pairs, tiles and blocks; rows and columns around tiles and panels.
    const SIZES: [(usize, usize, usize); 9] = [
        (1, 1, 1),
        (3, 2, 7),
        (9, 31, 33),
        (17, 33, 31),
        (64, 128, 128),
        (37, 301, 65),
        (100, 129, 97),
        (33, 1_090, 40),
        (1, 2_310, 1_070),
    ];

    /// Each product, equal in all layouts: its size, the rounded sides by rows and by columns, what was there before, and what
    /// was found.
    fn each(
        kernel: Tested,
        scale: f32,
        check: impl Fn((usize, usize, usize), &[f32], &[f32], &[f32], &[f32]),
    ) {
        for (m, k, n) in SIZES {
            let [x, w, before] = [(m * k, 1), (n * k, 2), (m * n, 3)]
                .map(|(len, seed)| noise(len, seed).iter().map(|x| x * scale).collect::<Vec<_>>());
            let turned = |x: &[f32]| -> Vec<f32> {
                let rows = x.len() / k;
                (0..x.len()).map(|i| x[i % rows * k + i / rows]).collect()
            };
            let (x_turned, w_turned) = (turned(&x), turned(&w));
            let [rows, columns] = [&x, &w].map(|x| x.iter().map(|&x| round(x)).collect::<Vec<_>>());
            let a = [Matrix::new(&x, m, k), Matrix::new(&x_turned, k, m).transposed()];
            let b = [Matrix::new(&w, n, k).transposed(), Matrix::new(&w_turned, k, n)];
            for (before, accumulate) in [(before, true), (vec![0.0; m * n], false)] {
                let product = |i: usize| {
                    let mut found = if accumulate { before.clone() } else { vec![f32::NAN; m * n] };
                    kernel.product(a[i / 2], b[i % 2], &mut found, accumulate);
                    found
                };
                let found = product(0);
                check((m, k, n), &rows, &columns, &before, &found);
                assert!((1..4).all(|i| product(i) == found), "{kernel:?} {m} {k} {n}");
            }
        }
    }

    #[test]
    fn equals_the_specification_to_the_bit() {
        let kernels = Tested::all().into_iter().flat_map(|kernel| [(kernel, 1.0), (kernel, 1e-19)]);
        for (kernel, scale) in kernels {
            each(kernel, scale, |(m, k, n), rows, columns, before, found| {
                let chain = |i: usize| {
                    kernel.chain(before[i], &rows[i / n * k..][..k], &columns[i % n * k..][..k])
                };
                let wanted: Vec<f32> = (0..m * n).map(chain).collect();
                assert!(wanted == found, "{kernel:?} {m} {k} {n}");
            });
        }
    }

    /// The bound at the head of the module. The sums in f64 are exact beside it: their own error is `2^-29` of it.
    #[test]
    fn is_near_the_exact_product() {
        for kernel in Tested::all() {
            for scale in [1.0, 1e-19] {
                each(kernel, scale, |(m, k, n), rows, columns, before, found| {
                    let roundings = (k + 2) as f64 * 0.5_f64.powi(24);
                    let tiny = (3 * k) as f64 * 0.5_f64.powi(126);
                    for (i, found) in found.iter().enumerate() {
                        let products =
                            rows[i / n * k..][..k].iter().zip(&columns[i % n * k..][..k]);
                        let terms = products.map(|(&x, &y)| f64::from(x) * f64::from(y));
                        let terms = terms.chain([f64::from(before[i])]);
                        let exact: f64 = terms.clone().sum();
                        let bound =
                            roundings / (1.0 - roundings) * terms.map(f64::abs).sum::<f64>();
                        let error = (f64::from(*found) - exact).abs();
                        assert!(error <= bound + tiny, "{kernel:?} {m} {k} {n}: {error} at {i}");
                    }
                });
            }
        }
    }

    #[test]
    fn rounds_to_nearest_even_and_keeps_what_is_not_finite() {
        for kernel in Tested::all() {
            for (x, wanted) in [
                (1.0, 1.0),
                (1.0 + 0.5_f32.powi(8), 1.0),
                (1.0 + 0.5_f32.powi(8) + 0.5_f32.powi(23), 1.0 + 0.5_f32.powi(7)),
                (-1.0 - 3.0 * 0.5_f32.powi(8), -1.0 - 0.5_f32.powi(6)),
                (f32::MAX, f32::INFINITY),
                (f32::NEG_INFINITY, f32::NEG_INFINITY),
                (f32::MIN_POSITIVE, f32::MIN_POSITIVE),
                (f32::MIN_POSITIVE / 2.0, 0.0),
                (f32::NAN, f32::NAN),
                // A payload that would vanish with the lower half.
                (f32::from_bits(0x7F80_0001), f32::NAN),
            ] {
                let mut found = [7.0];
                kernel.product(
                    Matrix::new(&[x], 1, 1),
                    Matrix::new(&[1.0], 1, 1),
                    &mut found,
                    false,
                );
                assert!(
                    found == [wanted] || wanted.is_nan() && found[0].is_nan(),
                    "{x}: {found:?}"
                );
                assert!(round(x) == wanted || wanted.is_nan(), "the specification");
            }
        }
    }

    #[test]
    fn same_bytes_on_any_number_of_threads() {
        let (m, k, n) = (531, 1_100, 97);
        let (x, w) = (noise(m * k, 1), noise(n * k, 2));
        for kernel in Tested::all() {
            let with = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let mut out = vec![f32::NAN; m * n];
                let (a, b) = (Matrix::new(&x, m, k), Matrix::new(&w, n, k).transposed());
                pool.expect("a few threads").install(|| kernel.product(a, b, &mut out, false));
                out
            };
            let one = with(1);
            assert!(one.iter().all(|x| x.is_finite()));
            for threads in [2, 3, 8] {
                assert!(with(threads) == one, "{kernel:?}, {threads} threads");
            }
        }
    }

    #[test]
    fn nothing_is_a_sum_of_nothing() {
        for kernel in Tested::all() {
            let mut out = [7.0; 6];
            kernel.product(Matrix::new(&[], 2, 0), Matrix::new(&[], 0, 3), &mut out, true);
            assert_eq!(out, [7.0; 6]);
            kernel.product(Matrix::new(&[], 2, 0), Matrix::new(&[], 0, 3), &mut out, false);
            assert_eq!(out, [0.0; 6]);
        }
    }
}
