//! How fast this machine multiplies matrices: what the speed of training is measured against.

use std::time::{Duration, Instant};

use super::bf16::Bf16;
use super::gemm::{Matrix, matmul};

/// Side of the square matrices: each is 4 MiB, of which blocks stay in the caches.
const SIDE: usize = 1024;

/// Readings go on for as long, after a first one that does not count. Of them the fastest counts: other work only slows
/// one down.
const TIME: Duration = Duration::from_millis(300);

/// Threads that the products of training use.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Floating-point operations a second of products in f32, on all threads together.
pub fn f32() -> f64 {
    measure(matmul)
}

/// The same in bf16.
pub fn bf16(kernel: Bf16) -> f64 {
    measure(|a, b, out| kernel.matmul(a, b, out))
}

fn measure(product: impl Fn(Matrix<'_>, Matrix<'_>, &mut [f32])) -> f64 {
    let side = vec![1.0; SIDE * SIDE];
    let (a, b) = (Matrix::new(&side, SIDE, SIDE), Matrix::new(&side, SIDE, SIDE).transposed());
    let mut out = vec![0.0; SIDE * SIDE];
    let mut reading = || {
        let began = Instant::now();
        product(a, b, &mut out);
        2.0 * (SIDE as f64).powi(3) / began.elapsed().as_secs_f64()
    };
    reading();
    let began = Instant::now();
    let mut fastest = reading();
    while began.elapsed() < TIME {
        fastest = reading().max(fastest);
    }
    assert_eq!(out[SIDE], SIDE as f32, "a product of ones");
    fastest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_reading_is_no_faster_than_the_product() {
        let calls = std::cell::Cell::new(0);
        let pause = Duration::from_millis(20);
        let speed = measure(|_, _, out| {
            calls.set(calls.get() + 1);
            std::thread::sleep(pause);
            out.fill(SIDE as f32);
        });
        assert!(calls.get() >= 2);
        assert!(0.0 < speed && speed <= 2.0 * (SIDE as f64).powi(3) / pause.as_secs_f64());
        assert!(f32() > 0.0);
    }
}
