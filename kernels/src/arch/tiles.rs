//! The tiles of AMX: what multiplies bytes in inference, and bf16 in training.
//!
//! Instructions on tiles are inline assembly, and a trait, so that an emulation tests what uses them on any CPU.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;

/// Rows of a tile.
pub(super) const ROWS: usize = 16;
/// Bytes of a row of a tile: of the left operand, or four times the sums.
pub(super) const BYTES: usize = 64;

/// What the instructions do to the tiles of this thread.
pub(crate) trait Tiles {
    /// The name of the kernel with bytes.
    const INT8: &str;

    /// Makes eight tiles of 16 rows of 64 bytes; until it is dropped the thread has them.
    ///
    /// # Safety
    ///
    /// The CPU has the instructions to be used, the system lets this process use them, and the thread has no other value of the type.
    unsafe fn new() -> Self;

    /// Reads rows that are `stride` bytes apart.
    ///
    /// # Safety
    ///
    /// `start` leads to 16 rows of 64 bytes.
    unsafe fn load<const T: usize>(&mut self, start: *const u8, stride: usize);

    /// Writes rows that are `stride` bytes apart.
    ///
    /// # Safety
    ///
    /// `start` leads to 16 rows of 64 bytes.
    unsafe fn store<const T: usize>(&mut self, start: *mut u8, stride: usize);

    /// `sums[m, n] += sum_k sum_(i < 4) x[m, 4 k + i] * w[k, 4 n + i]`, the bytes signed.
    fn dot_int8<const SUMS: usize, const X: usize, const W: usize>(&mut self);

    /// `sums[m, n] += sum_k x[m, 2 k] * w[k, 2 n] + sum_k x[m, 2 k + 1] * w[k, 2 n + 1]` of bf16, summed in f32 in this order.
    #[cfg(feature = "train")]
    fn dot_bf16<const SUMS: usize, const X: usize, const W: usize>(&mut self);
}

/// What tiles can multiply, by its bit in leaf 7 of `cpuid`.
#[derive(Clone, Copy)]
pub(super) enum Feature {
    #[cfg(feature = "train")]
    Bf16 = 22,
    Int8 = 25,
}

/// Whether the CPU has tiles with this, and the system lets the process use them. A CPU with AVX-512 has the leaf.
pub(super) fn granted(feature: Feature) -> bool {
    const TILES: u32 = 24;
    let wanted = 1 << TILES | 1 << feature as u32;
    __cpuid_count(7, 0).edx & wanted == wanted && permitted()
}

/// Asks Linux for the tiles: it keeps 8 KiB for each thread that uses them, and gives them to processes that ask.
fn permitted() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: the call changes nothing but what this process may do, and the registers named here.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// The tiles of the CPU. No code but this touches them, and the compiler does not know them, so they keep what one block of
/// assembly leaves for the next.
#[derive(Debug)]
pub(crate) struct Registers(PhantomData<*const ()>);

/// What `ldtilecfg` reads: the palette, and the bytes of a row and the rows of each tile.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

const _: () = assert!(size_of::<Configuration>() == 64);

impl Tiles for Registers {
    const INT8: &str = "amx-int8";

    unsafe fn new() -> Self {
        let mut configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes: [0; 16],
            rows: [0; 16],
        };
        configuration.bytes[..8].fill(BYTES as u16);
        configuration.rows[..8].fill(ROWS as u8);
        // SAFETY: the instruction is there by the contract of the trait, and reads the configuration alone.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &configuration, options(readonly, nostack, preserves_flags));
        }
        Self(PhantomData)
    }

    #[inline(always)]
    unsafe fn load<const T: usize>(&mut self, start: *const u8, stride: usize) {
        // SAFETY: the value is proof of the tiles; it reads what the contract of the trait grants.
        unsafe {
            asm!(
                "tileloadd tmm{}, [{} + {} * 1]",
                const T, in(reg) start, in(reg) stride,
                options(readonly, nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn store<const T: usize>(&mut self, start: *mut u8, stride: usize) {
        // SAFETY: the value is proof of the tiles; it writes what the contract of the trait grants.
        unsafe {
            asm!(
                "tilestored [{} + {} * 1], tmm{}",
                in(reg) start, in(reg) stride, const T,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    fn dot_int8<const SUMS: usize, const X: usize, const W: usize>(&mut self) {
        // SAFETY: the value is proof of the tiles.
        unsafe {
            asm!(
                "tdpbssd tmm{}, tmm{}, tmm{}",
                const SUMS, const X, const W,
                options(nomem, nostack, preserves_flags),
            );
        }
    }

    #[cfg(feature = "train")]
    #[inline(always)]
    fn dot_bf16<const SUMS: usize, const X: usize, const W: usize>(&mut self) {
        // SAFETY: the value is proof of the tiles.
        unsafe {
            asm!(
                "tdpbf16ps tmm{}, tmm{}, tmm{}",
                const SUMS, const X, const W,
                options(nomem, nostack, preserves_flags),
            );
        }
    }
}

impl Drop for Registers {
    /// A thread that holds tiles costs the system more to switch, and keeps its core from sleeping deeply.
    fn drop(&mut self) {
        // SAFETY: the value is proof of the tiles.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Tiles in memory, by Intel's description of the instructions.
    #[derive(Debug)]
    pub(crate) struct Emulated([[[u8; BYTES]; ROWS]; 8]);

    impl Tiles for Emulated {
        const INT8: &str = "amx-int8 (emulated)";

        unsafe fn new() -> Self {
            Self([[[0; BYTES]; ROWS]; 8])
        }

        unsafe fn load<const T: usize>(&mut self, start: *const u8, stride: usize) {
            for (r, row) in self.0[T].iter_mut().enumerate() {
                // SAFETY: row `r` by the contract of the trait.
                *row = unsafe { start.add(r * stride).cast::<[u8; BYTES]>().read_unaligned() };
            }
        }

        unsafe fn store<const T: usize>(&mut self, start: *mut u8, stride: usize) {
            for (r, row) in self.0[T].iter().enumerate() {
                // SAFETY: row `r` by the contract of the trait.
                unsafe { start.add(r * stride).cast::<[u8; BYTES]>().write_unaligned(*row) };
            }
        }

        fn dot_int8<const SUMS: usize, const X: usize, const W: usize>(&mut self) {
            let (x, w) = (self.0[X], self.0[W]);
            for (m, sums) in self.0[SUMS].iter_mut().enumerate() {
                for (n, sum) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let mut total = i32::from_le_bytes(*sum);
                    for k in 0..ROWS {
                        for i in 0..4 {
                            let (x, w) = (x[m][4 * k + i] as i8, w[k][4 * n + i] as i8);
                            total = total.wrapping_add(i32::from(x) * i32::from(w));
                        }
                    }
                    *sum = total.to_le_bytes();
                }
            }
        }

        #[cfg(feature = "train")]
        fn dot_bf16<const SUMS: usize, const X: usize, const W: usize>(&mut self) {
            let pair = |word: &[u8]| [0, 2].map(|i| bf16(word[i], word[i + 1]));
            let (x, w) = (self.0[X], self.0[W]);
            for (m, sums) in self.0[SUMS].iter_mut().enumerate() {
                for (n, sum) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let mut apart = [0.0_f32; 2];
                    for k in 0..ROWS {
                        let (x, w) = (pair(&x[m][4 * k..]), pair(&w[k][4 * n..]));
                        for ((apart, x), w) in apart.iter_mut().zip(x).zip(w) {
                            *apart = normal(x.mul_add(w, *apart));
                        }
                    }
                    let before = normal(f32::from_le_bytes(*sum));
                    *sum = normal(before + normal(apart[0] + apart[1])).to_le_bytes();
                }
            }
        }
    }

    /// A bf16 as f32, zero if it is too small for a normal number.
    #[cfg(feature = "train")]
    fn bf16(low: u8, high: u8) -> f32 {
        normal(f32::from_le_bytes([0, 0, low, high]))
    }

    /// What is too small for a normal number becomes zero.
    #[cfg(feature = "train")]
    fn normal(x: f32) -> f32 {
        if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
    }
}
