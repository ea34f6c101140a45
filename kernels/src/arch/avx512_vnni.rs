//! AVX-512 with VNNI: Intel since 2019 (Cascade Lake), AMD since 2022 (Zen 4).

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::{AHEAD, Arch, Shape, check_sparse, group};
use crate::pages::Line;
use crate::sparse_matrix::{DENSE, GROUPS, LINES, PATTERNS, ROWS, SPREAD};
use crate::ternary_matrix::{BLOCK, PANEL};
use crate::tokens::GROUP;

/// Exists only where AVX-512 F, BW, VL and VNNI were detected, and AVX2 and FMA, which do what is not ternary.
pub(crate) struct Avx512Vnni(&'static Avx2);

impl Avx512Vnni {
    /// `None` if this CPU lacks one of them.
    pub(crate) fn new() -> Option<&'static Self> {
        static FOUND: std::sync::LazyLock<Option<Avx512Vnni>> = std::sync::LazyLock::new(|| {
            let found = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            Some(Avx512Vnni(Avx2::new().filter(|_| found)?))
        });
        FOUND.as_ref()
    }
}

impl Arch for Avx512Vnni {
    fn name(&self) -> &'static str {
        "avx512-vnni"
    }

    fn ternary_int8(&self, blocks: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]) {
        let shape = Shape::new(blocks, x, BLOCK / GROUP, tokens, sums);
        // SAFETY: `self` is proof of the instructions. Each part gets the lines of its panels, the entries of its tokens and
        // its sums, of lengths that `Shape` has checked.
        unsafe {
            match tokens {
                1 => {
                    walk!(shape, [1], 1, |P, blocks, x, sums| int8_vector(blocks, x, sums, shape))
                }
                4 => {
                    walk!(shape, [2, 1], 4, |P, blocks, x, sums| int8_tile::<4, P>(
                        blocks, x, sums, shape
                    ))
                }
                _ => {
                    walk!(shape, [2, 1], 12, |P, blocks, x, sums| int8_tile::<12, P>(
                        blocks, x, sums, shape
                    ))
                }
            }
        }
    }

    fn ternary_f32(&self, blocks: &[Line], x: &[f32], tokens: usize, sums: &mut [f32]) {
        let shape = Shape::new(blocks, x, BLOCK, tokens, sums);
        // SAFETY: as in `ternary_int8`.
        unsafe {
            match tokens {
                1 => {
                    walk!(shape, [4, 1], 1, |P, blocks, x, sums| f32_tile::<1, P>(
                        blocks, x, sums, shape
                    ))
                }
                4 => {
                    walk!(shape, [2, 1], 4, |P, blocks, x, sums| f32_tile::<4, P>(
                        blocks, x, sums, shape
                    ))
                }
                _ => {
                    walk!(shape, [1], 12, |P, blocks, x, sums| f32_tile::<12, P>(
                        blocks, x, sums, shape
                    ))
                }
            }
        }
    }

    fn prefers_sparse(&self) -> bool {
        true
    }

    fn tables(&self, x: &[[i8; GROUP]], tables: &mut [Line]) {
        let (x, rest) = x.as_chunks::<GROUP>();
        assert!(rest.is_empty() && tables.len() == GROUP * x.len(), "a table for each group");
        // SAFETY: `self` is proof of the instructions.
        unsafe { four_tables(x, tables) }
    }

    fn sparse_int8(&self, lines: &[Line], tables: &[Line], sums: &mut [i32]) {
        let depth = check_sparse(lines, tables, sums);
        let (panels, tables) = (sums.len() / ROWS, tables.as_ptr());
        let at = |panel: usize| lines.as_ptr().wrapping_add(panel * depth * LINES);
        let mut panel = 0;
        while panel < panels {
            let sums = sums[panel * ROWS..].as_mut_ptr();
            // SAFETY: `self` is proof of the instructions. The lines, tables and sums of the panels, of lengths that
            // `check_sparse` has checked.
            unsafe {
                if panel + 4 <= panels {
                    sparse_vector::<4>(at(panel), tables, sums, depth);
                    panel += 4;
                } else if panel + 2 <= panels {
                    sparse_vector::<2>(at(panel), tables, sums, depth);
                    panel += 2;
                } else {
                    sparse_vector::<1>(at(panel), tables, sums, depth);
                    panel += 1;
                }
            }
        }
    }

    fn unpack(&self, lines: &[Line], dense: [&mut [Line]; 2]) {
        for dense in &dense {
            assert_eq!(lines.len(), dense.len().div_ceil(DENSE) * LINES, "whole blocks");
        }
        // SAFETY: `self` is proof of the instructions.
        unsafe { unpack(lines, dense) }
    }

    fn int8_rows(&self, lines: &[Line], x: &[[i8; GROUP]], tokens: usize, sums: &mut [i32]) {
        let shape = Shape::new(lines, x, 1, tokens, sums);
        // SAFETY: as in `ternary_int8`.
        unsafe {
            match tokens {
                1 => {
                    walk!(shape, [1], 1, |P, lines, x, sums| rows_vector(lines, x, sums, shape))
                }
                4 => {
                    walk!(shape, [2, 1], 4, |P, lines, x, sums| rows_tile::<4, P>(
                        lines, x, sums, shape
                    ))
                }
                _ => {
                    walk!(shape, [2, 1], 12, |P, lines, x, sums| rows_tile::<12, P>(
                        lines, x, sums, shape
                    ))
                }
            }
        }
    }

    fn dense(&self, w: &[f32], d_output: usize, d_input: usize, x: &[f32], y: &mut [f32]) {
        self.0.dense(w, d_output, d_input, x, y);
    }
}

/// Lines that one step of a product with one token takes: as many sums at once as hide the latency of each.
const STEP: usize = 4;

/// One token and one panel, whose lines follow each other, as memory gives them best. The codes of four inputs stay where a
/// mask finds them, so a sum comes out 1, 4, 16 or 64 times too large, which one shift at the end mends; a sum of at most
/// `192 * 128 * 2^18 / 4` fits 32 bits.
///
/// # Safety
///
/// `blocks` leads to `depth` lines, `x` to `4 * depth` groups, `sums` to 16 sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn int8_vector(blocks: *const Line, x: *const [i8; GROUP], sums: *mut i32, shape: Shape) {
    let Shape { depth, .. } = shape;
    let masks = [0x03, 0x0c, 0x30, 0xc0u8].map(|mask| _mm512_set1_epi8(mask as i8));
    let mut acc = [[_mm512_setzero_si512(); 4]; STEP];
    // SAFETY: line `k` of `depth`, which is aligned, and groups `4 k` to `4 k + 3` of `4 * depth`. A prefetch may lead
    // anywhere.
    let add = |acc: &mut [__m512i; 4], k: usize| unsafe {
        let line = blocks.add(k);
        _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>().wrapping_add(AHEAD));
        let codes = _mm512_load_si512(line.cast());
        for (i, (acc, &mask)) in acc.iter_mut().zip(&masks).enumerate() {
            let group = _mm512_set1_epi32(group(x, 4 * k + i));
            *acc = _mm512_dpbusd_epi32(*acc, _mm512_and_si512(codes, mask), group);
        }
    };
    let whole = depth / STEP * STEP;
    for k in (0..whole).step_by(STEP) {
        for (i, acc) in acc.iter_mut().enumerate() {
            add(acc, k + i);
        }
    }
    for k in whole..depth {
        add(&mut acc[0], k);
    }
    let [first, others @ ..] = acc;
    let [a, b, c, d] = others.into_iter().fold(first, |mut all, acc| {
        all.iter_mut().zip(acc).for_each(|(all, acc)| *all = _mm512_add_epi32(*all, acc));
        all
    });
    let low = _mm512_add_epi32(a, _mm512_srai_epi32::<2>(b));
    let high = _mm512_add_epi32(_mm512_srai_epi32::<4>(c), _mm512_srai_epi32::<6>(d));
    // SAFETY: the 16 sums.
    unsafe { store(&[_mm512_add_epi32(low, high)], sums) };
}

/// `T` tokens and `P` panels: codes are unpacked once for all tokens.
///
/// # Safety
///
/// `blocks` leads to `P * depth` lines, `x` to `4 * depth * T` groups, `sums` to `T` rows of `16 P` sums, `width` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn int8_tile<const T: usize, const P: usize>(
    blocks: *const Line,
    x: *const [i8; GROUP],
    sums: *mut i32,
    shape: Shape,
) {
    let Shape { depth, width, .. } = shape;
    let mask = _mm512_set1_epi8(3);
    let mut acc = [[_mm512_setzero_si512(); P]; T];
    for k in 0..depth {
        let mut packed = [_mm512_setzero_si512(); P];
        for (p, packed) in packed.iter_mut().enumerate() {
            // SAFETY: line `p * depth + k` of `P * depth`; a line is aligned.
            *packed = unsafe { _mm512_load_si512(blocks.add(p * depth + k).cast()) };
        }
        for i in 0..4 {
            let mut codes = [_mm512_setzero_si512(); P];
            for (codes, packed) in codes.iter_mut().zip(&mut packed) {
                *codes = _mm512_and_si512(*packed, mask);
                *packed = _mm512_srli_epi16::<2>(*packed);
            }
            for (t, acc) in acc.iter_mut().enumerate() {
                // SAFETY: group `(4 k + i) * T + t` of `4 * depth * T`.
                let group = unsafe { group(x, (4 * k + i) * T + t) };
                let group = _mm512_set1_epi32(group);
                for (acc, &codes) in acc.iter_mut().zip(&codes) {
                    *acc = _mm512_dpbusd_epi32(*acc, codes, group);
                }
            }
        }
    }
    for (t, acc) in acc.iter().enumerate() {
        // SAFETY: the sums of token `t`.
        unsafe { store(acc, sums.add(t * width)) };
    }
}

/// One token and one panel of bytes.
///
/// # Safety
///
/// `lines` leads to `depth` lines, `x` to `depth` groups, `sums` to 16 sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn rows_vector(lines: *const Line, x: *const [i8; GROUP], sums: *mut i32, shape: Shape) {
    let Shape { depth, .. } = shape;
    let mut acc = [_mm512_setzero_si512(); STEP];
    // SAFETY: line `k` of `depth`, which is aligned, and group `k` of as many. A prefetch may lead anywhere.
    let add = |acc: &mut __m512i, k: usize| unsafe {
        let line = lines.add(k);
        _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>().wrapping_add(AHEAD));
        let group = _mm512_set1_epi32(group(x, k));
        *acc = _mm512_dpbusd_epi32(*acc, _mm512_load_si512(line.cast()), group);
    };
    let whole = depth / STEP * STEP;
    for k in (0..whole).step_by(STEP) {
        for (i, acc) in acc.iter_mut().enumerate() {
            add(acc, k + i);
        }
    }
    for k in whole..depth {
        add(&mut acc[0], k);
    }
    let sum = acc.into_iter().fold(_mm512_setzero_si512(), |sum, acc| _mm512_add_epi32(sum, acc));
    // SAFETY: the 16 sums.
    unsafe { store(&[sum], sums) };
}

/// The word of `x` and of four groups of it, negated in the upper half, that a pattern has first and second; which lanes have
/// a second.
const PICKS: ([[i16; 32]; 2], u32) = {
    let (mut picks, mut seconds) = ([[0; 32]; 2], 0);
    let mut code = 0;
    while code < 32 {
        let (mut found, mut place) = (0, 0);
        while place < GROUP {
            let trit = PATTERNS[code][place];
            if trit != 0 {
                picks[found][code] = place as i16 + if trit < 0 { 16 } else { 0 };
                found += 1;
            }
            place += 1;
        }
        seconds |= (found as u32 - 1) << code;
        code += 1;
    }
    (picks, seconds)
};

/// Tables of four groups at a time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn four_tables(x: &[[[i8; GROUP]; 4]], tables: &mut [Line]) {
    let (picks, seconds) = PICKS;
    // SAFETY: 32 words each; the loads need no alignment.
    let [first, second] =
        unsafe { [0, 1].map(|i: usize| _mm512_loadu_si512(picks[i].as_ptr().cast())) };
    for (x, tables) in x.iter().zip(tables.as_chunks_mut::<4>().0) {
        // SAFETY: 16 bytes; the load needs no alignment.
        let x = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(x.as_ptr().cast()) });
        let negated = _mm256_sub_epi16(_mm256_setzero_si256(), x);
        let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(x), negated);
        for (i, table) in tables.iter_mut().enumerate() {
            let group = _mm512_set1_epi16((GROUP * i) as i16);
            let a = _mm512_permutexvar_epi16(_mm512_add_epi16(first, group), both);
            let b = _mm512_maskz_permutexvar_epi16(seconds, _mm512_add_epi16(second, group), both);
            // SAFETY: a line is 64 bytes, aligned.
            unsafe { _mm512_store_si512(table.0.as_mut_ptr().cast(), _mm512_add_epi16(a, b)) };
        }
    }
}

/// Blocks between two widenings of the 16-bit sums: a group adds at most 256, and `7 * 16 * 256 < 2^15`.
const WIDEN: usize = 7;

/// One token and `P` panels of 2:4: every group of 32 rows is one look into the group's table.
///
/// # Safety
///
/// `lines` leads to `5 P * depth` lines, `tables` to `16 * depth` lines, `sums` to `32 P` sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn sparse_vector<const P: usize>(
    lines: *const Line,
    tables: *const Line,
    sums: *mut i32,
    depth: usize,
) {
    let mut acc = [[_mm512_setzero_si512(); 2]; P];
    for first in (0..depth).step_by(WIDEN) {
        let mut narrow = [_mm512_setzero_si512(); P];
        for k in first..depth.min(first + WIDEN) {
            let mut last = [_mm512_setzero_si512(); P];
            // Line `j` has groups `3 j` to `3 j + 2`, and a bit of group 15: its 15th, which is to be the `j`-th.
            macro_rules! line {
                ($j:literal, $above:literal) => {
                    let mut words = [_mm512_setzero_si512(); P];
                    for (p, words) in words.iter_mut().enumerate() {
                        // SAFETY: line `j` of block `k` of panel `p`; a line is aligned. A prefetch may lead anywhere.
                        *words = unsafe {
                            let line = lines.add((p * depth + k) * LINES + $j);
                            _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>().wrapping_add(AHEAD));
                            _mm512_load_si512(line.cast())
                        };
                    }
                    // SAFETY: tables `16 k + 3 j` to `16 k + 3 j + 2` of `16 * depth`; a line is aligned.
                    let tables = unsafe {
                        let tables = tables.add(GROUPS * k + 3 * $j);
                        [0, 1, 2].map(|i: usize| _mm512_load_si512(tables.add(i).cast()))
                    };
                    for (narrow, &words) in narrow.iter_mut().zip(&words) {
                        let a = _mm512_permutexvar_epi16(words, tables[0]);
                        let b = _mm512_permutexvar_epi16(_mm512_srli_epi16::<5>(words), tables[1]);
                        let c = _mm512_permutexvar_epi16(_mm512_srli_epi16::<10>(words), tables[2]);
                        let three = _mm512_add_epi16(_mm512_add_epi16(a, b), c);
                        *narrow = _mm512_add_epi16(*narrow, three);
                    }
                    for (last, &words) in last.iter_mut().zip(&words) {
                        // `mask & word | !mask & last`
                        *last = _mm512_ternarylogic_epi32::<0b1100_1010>(
                            _mm512_set1_epi16(1 << $j),
                            _mm512_srli_epi16::<$above>(words),
                            *last,
                        );
                    }
                };
            }
            line!(0, 15);
            line!(1, 14);
            line!(2, 13);
            line!(3, 12);
            line!(4, 11);
            // SAFETY: table `16 k + 15` of `16 * depth`; a line is aligned.
            let table = unsafe { _mm512_load_si512(tables.add(GROUPS * k + 15).cast()) };
            for (narrow, last) in narrow.iter_mut().zip(last) {
                *narrow = _mm512_add_epi16(*narrow, _mm512_permutexvar_epi16(last, table));
            }
        }
        for ([low, high], narrow) in acc.iter_mut().zip(narrow) {
            let rows = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(narrow));
            *low = _mm512_add_epi32(*low, rows);
            let rows = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64::<1>(narrow));
            *high = _mm512_add_epi32(*high, rows);
        }
    }
    // SAFETY: the `32 P` sums.
    unsafe { store(acc.as_flattened(), sums) };
}

/// One panel of 2:4 as two dense ones: the codes of a group are looked up for 16 rows at a time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn unpack(lines: &[Line], [upper, lower]: [&mut [Line]; 2]) {
    // SAFETY: 32 dwords; the loads need no alignment.
    let spread =
        unsafe { [0, 16].map(|i: usize| _mm512_loadu_si512(SPREAD.as_ptr().add(i).cast())) };
    for (block, (upper, lower)) in
        lines.chunks_exact(LINES).zip(upper.chunks_mut(DENSE).zip(lower.chunks_mut(DENSE)))
    {
        let mut codes = [_mm512_setzero_si512(); GROUPS];
        for (j, line) in block.iter().enumerate() {
            // SAFETY: a line is 64 bytes, aligned.
            let words = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
            codes[3 * j] = words;
            codes[3 * j + 1] = _mm512_srli_epi16::<5>(words);
            codes[3 * j + 2] = _mm512_srli_epi16::<10>(words);
            let bit = _mm512_srl_epi16(words, _mm_cvtsi32_si128(15));
            let bit = _mm512_sll_epi16(bit, _mm_cvtsi32_si128(j as i32));
            codes[15] = _mm512_or_si512(codes[15], bit);
        }
        for (i, (upper, lower)) in upper.iter_mut().zip(lower).enumerate() {
            let mut dwords = [_mm512_setzero_si512(); 2];
            for (p, &codes) in codes[GROUP * i..][..GROUP].iter().enumerate() {
                let halves = [_mm512_castsi512_si256(codes), _mm512_extracti64x4_epi64::<1>(codes)];
                let shift = _mm_cvtsi32_si128(2 * p as i32);
                for (dwords, half) in dwords.iter_mut().zip(halves) {
                    let codes = _mm512_cvtepu16_epi32(half);
                    let four = _mm512_permutex2var_epi32(spread[0], codes, spread[1]);
                    *dwords = _mm512_or_si512(*dwords, _mm512_sll_epi32(four, shift));
                }
            }
            // SAFETY: a line is 64 bytes, aligned.
            unsafe {
                _mm512_store_si512(upper.0.as_mut_ptr().cast(), dwords[0]);
                _mm512_store_si512(lower.0.as_mut_ptr().cast(), dwords[1]);
            }
        }
    }
}

/// `T` tokens and `P` panels of bytes.
///
/// # Safety
///
/// `lines` leads to `P * depth` lines, `x` to `depth * T` groups, `sums` to `T` rows of `16 P` sums, `width` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn rows_tile<const T: usize, const P: usize>(
    lines: *const Line,
    x: *const [i8; GROUP],
    sums: *mut i32,
    shape: Shape,
) {
    let Shape { depth, width, .. } = shape;
    let mut acc = [[_mm512_setzero_si512(); P]; T];
    for k in 0..depth {
        let mut bytes = [_mm512_setzero_si512(); P];
        for (p, bytes) in bytes.iter_mut().enumerate() {
            // SAFETY: line `p * depth + k` of `P * depth`; a line is aligned.
            *bytes = unsafe { _mm512_load_si512(lines.add(p * depth + k).cast()) };
        }
        for (t, acc) in acc.iter_mut().enumerate() {
            // SAFETY: group `k * T + t` of `depth * T`.
            let group = unsafe { group(x, k * T + t) };
            let group = _mm512_set1_epi32(group);
            for (acc, &bytes) in acc.iter_mut().zip(&bytes) {
                *acc = _mm512_dpbusd_epi32(*acc, bytes, group);
            }
        }
    }
    for (t, acc) in acc.iter().enumerate() {
        // SAFETY: the sums of token `t`.
        unsafe { store(acc, sums.add(t * width)) };
    }
}

/// `T` tokens and `P` panels of floats. A dword holds the 16 codes of a row: shifted, its lowest bits look the trit up in
/// a register of 16 floats, whose place depends on two bits alone.
///
/// # Safety
///
/// `blocks` leads to `P * depth` lines, `x` to `16 * depth * T` floats, `sums` to `T` rows of `16 P` sums, `width` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn f32_tile<const T: usize, const P: usize>(
    blocks: *const Line,
    x: *const f32,
    sums: *mut f32,
    shape: Shape,
) {
    let Shape { depth, width, .. } = shape;
    let trits = _mm512_setr_ps(
        -1.0, 0.0, 1.0, 2.0, -1.0, 0.0, 1.0, 2.0, -1.0, 0.0, 1.0, 2.0, -1.0, 0.0, 1.0, 2.0,
    );
    let mut acc = [[_mm512_setzero_ps(); P]; T];
    for k in 0..depth {
        let mut packed = [_mm512_setzero_si512(); P];
        for (p, packed) in packed.iter_mut().enumerate() {
            // SAFETY: line `p * depth + k` of `P * depth`; a line is aligned.
            *packed = unsafe { _mm512_load_si512(blocks.add(p * depth + k).cast()) };
        }
        // Input `4 p + b` of the block is bit pair `p` of byte `b`: 8 b + 2 p bits up.
        macro_rules! inputs {
            ($($input:literal: $shift:literal),*) => {$(
                let mut w = [_mm512_setzero_ps(); P];
                for (w, &packed) in w.iter_mut().zip(&packed) {
                    *w = _mm512_permutexvar_ps(_mm512_srli_epi32::<$shift>(packed), trits);
                }
                for (t, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: float `(16 k + input) * T + t` of `16 * depth * T`.
                    let x = _mm512_set1_ps(unsafe { *x.add((BLOCK * k + $input) * T + t) });
                    for (acc, &w) in acc.iter_mut().zip(&w) {
                        *acc = _mm512_fmadd_ps(w, x, *acc);
                    }
                }
            )*};
        }
        inputs!(0: 0, 1: 8, 2: 16, 3: 24, 4: 2, 5: 10, 6: 18, 7: 26);
        inputs!(8: 4, 9: 12, 10: 20, 11: 28, 12: 6, 13: 14, 14: 22, 15: 30);
    }
    for (t, acc) in acc.into_iter().enumerate() {
        for (p, acc) in acc.into_iter().enumerate() {
            // SAFETY: sums `16 p` to `16 p + 15` of row `t`.
            unsafe { _mm512_storeu_ps(sums.add(t * width + PANEL * p), acc) };
        }
    }
}

/// Writes neighbouring sums of one token.
///
/// # Safety
///
/// `sums` leads to 16 for each vector.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(vectors: &[__m512i], sums: *mut i32) {
    for (i, &vector) in vectors.iter().enumerate() {
        // SAFETY: sums `16 i` to `16 i + 15`; the store needs no alignment.
        unsafe { _mm512_storeu_si512(sums.add(PANEL * i).cast(), vector) };
    }
}
