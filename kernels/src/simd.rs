//! Loops compiled once per instruction set, chosen at run time.

use std::sync::LazyLock;

use pulp::Arch;

/// Lanes of a fixed-order sum. Sixteen fill one AVX-512 register, two of AVX2 and four of NEON; that every CPU adds in the
/// same sixteen lanes makes the sums equal on all of them.
pub(crate) const LANES: usize = 16;

/// The widest instruction set of this CPU, looked up once.
#[inline(always)]
pub(crate) fn arch() -> Arch {
    static ARCH: LazyLock<Arch> = LazyLock::new(Arch::new);
    #[cfg(test)]
    if let Some(arch) = *FORCED.read().expect("no test panics with the lock") {
        return arch;
    }
    *ARCH
}

/// Another instruction set for the tests. All of them give the same bytes, so tests that run beside are not disturbed.
#[cfg(test)]
pub(crate) static FORCED: std::sync::RwLock<Option<Arch>> = std::sync::RwLock::new(None);

/// Defines a function whose body is compiled for AVX-512, AVX2 + FMA, NEON and the baseline, and that picks one at run
/// time. Everything called in the body must be `#[inline(always)]`, or it stays at the baseline.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$life:lifetime>(
        $($arg:ident: $ty:ty),* $(,)?
    ) $body:block) => {
        simd! { $(#[$meta])* $vis fn $name<$life>($($arg: $ty),*) -> () $body }
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$life:lifetime>(
        $($arg:ident: $ty:ty),* $(,)?
    ) -> $ret:ty $body:block) => {
        $(#[$meta])*
        $vis fn $name<$life>($($arg: $ty),*) -> $ret {
            struct Pass<$life> { $($arg: $ty),* }
            impl<$life> pulp::NullaryFnOnce for Pass<$life> {
                type Output = $ret;
                #[inline(always)]
                fn call(self) -> $ret {
                    let Self { $($arg),* } = self;
                    $body
                }
            }
            $crate::simd::arch().dispatch(Pass { $($arg),* })
        }
    };
}
pub(crate) use simd;

/// Asks for the cache line of an address, which may lead anywhere.
#[inline(always)]
pub(crate) fn prefetch(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, and it changes nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Joins the lanes in one fixed order.
#[inline(always)]
fn join(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Sum of `f` over the entries of `N` slices of one length, in [`LANES`] lanes; the tail goes to the first lanes.
#[inline(always)]
pub(crate) fn sum<const N: usize>(x: [&[f32]; N], f: impl Fn([f32; N]) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let split = x.map(<[f32]>::as_chunks::<LANES>);
    let blocks = split[0].0.len();
    // Equal lengths in sight of the compiler: without bounds to check the lanes become vectors.
    let whole = split.map(|(whole, _)| &whole[..blocks]);
    for i in 0..blocks {
        let block = whole.map(|whole| &whole[i]);
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(block.map(|block| block[lane]));
        }
    }
    for (i, sum) in lanes.iter_mut().enumerate().take(split[0].1.len()) {
        *sum += f(split.map(|(_, tail)| tail[i]));
    }
    join(lanes, |a, b| a + b)
}

/// The largest value; minus infinity if there is none.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, tail) = x.as_chunks::<LANES>();
    for x in whole {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = larger(*lane, *x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *lane = larger(*lane, *x);
    }
    join(lanes, larger)
}
