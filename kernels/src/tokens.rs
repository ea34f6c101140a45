//! The input of a ternary product: a few tokens, in the order in which the kernels read them.
//!
//! Tokens are dealt into *tiles* of 12, 4 or 1, as many of the larger as fit. A tile holds, for each group of inputs that
//! a kernel takes at once (four codes, or one float), the group of every token of the tile, one after the other.

use crate::pool::Pool;
use crate::quantize::quantize_int8;
use crate::simd::simd;
use crate::ternary_matrix::BLOCK;

/// Sizes of tiles, largest first: 12 tokens by 32 rows are as many sums as AVX-512 has registers for.
pub(crate) const TILES: [usize; 3] = [12, 4, 1];

/// Codes that a kernel takes at once.
pub(crate) const GROUP: usize = 4;

/// Tokens from which [`crate::arch::Many`] is asked, where the CPU has it.
pub(crate) const MANY: usize = 16;

/// The most tokens that it takes at once.
pub(crate) const MOST: usize = 128;

/// Tokens and codes beyond the last that it may read: what they are changes nothing.
const MARGIN: [usize; 2] = [31, 64];

/// Tokens of one tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) first: usize,
    pub(crate) tokens: usize,
}

/// The tiles of so many tokens.
pub(crate) fn tiles(seq: usize) -> impl Iterator<Item = Tile> {
    cut(seq, |rest| TILES.into_iter().find(|&tokens| tokens <= rest))
}

/// The pieces of so many tokens that [`crate::arch::Many`] takes.
pub(crate) fn pieces(seq: usize) -> impl Iterator<Item = Tile> {
    cut(seq, |rest| (rest > 0).then_some(rest.min(MOST)))
}

fn cut(seq: usize, size: impl Fn(usize) -> Option<usize>) -> impl Iterator<Item = Tile> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let tokens = size(seq - first)?;
        first += tokens;
        Some(Tile { first: first - tokens, tokens })
    })
}

/// Zeros for so many codes, and for what may be read beyond them.
fn with_margin(len: usize, d_input: usize) -> Vec<i8> {
    let [tokens, codes] = MARGIN;
    vec![0; if len < MANY * d_input { len } else { len + tokens * d_input + codes }]
}

/// Deals entries of a token, the `t`-th of its tile, to its places.
fn deal<T: Copy>(entries: &[T], tile: &mut [T], tile_tokens: usize, t: usize) {
    let places = tile[t..].iter_mut().step_by(tile_tokens);
    places.zip(entries).for_each(|(place, &entry)| *place = entry);
}

/// Groups of a token's codes, whole blocks of them.
fn depth(d_input: usize) -> usize {
    d_input.div_ceil(BLOCK) * (BLOCK / GROUP)
}

/// Tokens as eight-bit codes, each with a scale: `x ≈ scale * code`.
#[derive(Clone, Debug)]
pub struct Int8Tokens {
    d_input: usize,
    /// `[seq, d_input]`, and from [`MANY`] tokens on the margin.
    codes: Vec<i8>,
    /// Per tile `[groups, tokens]`.
    groups: Vec<[i8; GROUP]>,
    /// The sum of a token's codes, `[seq]`.
    sums: Vec<i32>,
    /// `[seq]`.
    scales: Vec<f32>,
}

/// Tokens as floats.
#[derive(Clone, Debug)]
pub struct FloatTokens {
    d_input: usize,
    seq: usize,
    /// Per tile `[inputs, tokens]`, the inputs filled up with zeros to whole blocks.
    values: Vec<f32>,
}

/// Neighbouring tokens of [`Int8Tokens`].
struct Part<'a> {
    codes: &'a mut [i8],
    groups: &'a mut [[i8; GROUP]],
    sums: &'a mut [i32],
    scales: &'a mut [f32],
}

impl Part<'_> {
    /// Derives groups and sums from the codes.
    fn deal(&mut self, d_input: usize) {
        let depth = depth(d_input);
        for Tile { first, tokens } in tiles(self.sums.len()) {
            let tile = &mut self.groups[first * depth..][..tokens * depth];
            for t in 0..tokens {
                let codes = &self.codes[(first + t) * d_input..][..d_input];
                let (whole, rest) = codes.as_chunks();
                deal(whole, tile, tokens, t);
                if !rest.is_empty() {
                    tile[whole.len() * tokens + t][..rest.len()].copy_from_slice(rest);
                }
                self.sums[first + t] = sum(codes);
            }
        }
    }
}

simd! {
    fn sum<'a>(codes: &'a [i8]) -> i32 {
        codes.iter().map(|&code| i32::from(code)).sum()
    }
}

impl Int8Tokens {
    /// Quantizes each token ([`quantize_int8`]), on all threads where there are many.
    ///
    /// # Shapes
    ///
    /// - `x`: `[seq, d_input]`
    ///
    /// # Panics
    ///
    /// If `x` is not whole tokens, or `d_input` is 0.
    pub fn quantize(pool: &Pool, x: &[f32], d_input: usize) -> Self {
        assert!(d_input > 0 && x.len().is_multiple_of(d_input), "whole tokens");
        let mut tokens = Self::zeros(x.len() / d_input, d_input);
        let mut tiles: Vec<_> = x.chunks(TILES[0] * d_input).zip(tokens.parts()).collect();
        pool.write_chunks(&mut tiles, 1, |_, tiles| {
            for (x, part) in tiles {
                let rows = x.chunks_exact(d_input).zip(part.codes.chunks_exact_mut(d_input));
                for ((x, codes), scale) in rows.zip(&mut *part.scales) {
                    *scale = quantize_int8(x, codes);
                }
                part.deal(d_input);
            }
        });
        tokens
    }

    /// Takes codes and their scales.
    ///
    /// # Shapes
    ///
    /// - `codes`: `[seq, d_input]`; `scales`: `[seq]`
    ///
    /// # Panics
    ///
    /// If a length does not fit the shape, or `d_input` is 0.
    pub fn new(codes: &[i8], scales: Vec<f32>, d_input: usize) -> Self {
        assert!(d_input > 0, "tokens of something");
        assert_eq!(Some(codes.len()), scales.len().checked_mul(d_input), "whole tokens");
        let mut tokens = Self::zeros(scales.len(), d_input);
        tokens.codes[..codes.len()].copy_from_slice(codes);
        tokens.scales = scales;
        tokens.parts().for_each(|mut part| part.deal(d_input));
        tokens
    }

    fn zeros(seq: usize, d_input: usize) -> Self {
        Self {
            d_input,
            codes: with_margin(seq * d_input, d_input),
            groups: vec![[0; GROUP]; seq * depth(d_input)],
            sums: vec![0; seq],
            scales: vec![0.0; seq],
        }
    }

    /// The tokens in runs of the largest tile; the last may be shorter.
    fn parts(&mut self) -> impl Iterator<Item = Part<'_>> {
        let Self { d_input, codes, groups, sums, scales } = self;
        let codes = codes[..scales.len() * *d_input].chunks_mut(TILES[0] * *d_input);
        let groups = groups.chunks_mut(TILES[0] * depth(*d_input));
        let of_tokens = sums.chunks_mut(TILES[0]).zip(scales.chunks_mut(TILES[0]));
        let parts = codes.zip(groups).zip(of_tokens);
        parts.map(|((codes, groups), (sums, scales))| Part { codes, groups, sums, scales })
    }

    /// `scale * code`, `[seq, d_input]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut x = vec![0.0; self.seq() * self.d_input];
        for tile in tiles(self.seq()) {
            let groups = self.tile(tile);
            for t in 0..tile.tokens {
                let scale = self.scales[tile.first + t];
                let codes = groups[t..].iter().step_by(tile.tokens).flatten();
                let token = &mut x[(tile.first + t) * self.d_input..][..self.d_input];
                token.iter_mut().zip(codes).for_each(|(x, &code)| *x = f32::from(code) * scale);
            }
        }
        x
    }

    /// Inputs of a token.
    pub fn d_input(&self) -> usize {
        self.d_input
    }

    /// Tokens.
    pub fn seq(&self) -> usize {
        self.scales.len()
    }

    /// The sums of the codes, `[seq]`.
    pub(crate) fn sums(&self) -> &[i32] {
        &self.sums
    }

    /// The scales, `[seq]`.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The codes from a token on, `[tokens, d_input]`, and the margin behind the last.
    pub(crate) fn codes(&self, first: usize) -> &[i8] {
        &self.codes[first * self.d_input..]
    }

    /// `[groups, tokens]`.
    pub(crate) fn tile(&self, tile: Tile) -> &[[i8; GROUP]] {
        let depth = depth(self.d_input);
        &self.groups[tile.first * depth..][..tile.tokens * depth]
    }
}

impl FloatTokens {
    /// # Shapes
    ///
    /// - `x`: `[seq, d_input]`
    ///
    /// # Panics
    ///
    /// If `x` is not whole tokens, or `d_input` is 0.
    pub fn new(x: &[f32], d_input: usize) -> Self {
        assert!(d_input > 0 && x.len().is_multiple_of(d_input), "whole tokens");
        let seq = x.len() / d_input;
        let depth = d_input.next_multiple_of(BLOCK);
        let mut values = vec![0.0; seq * depth];
        for Tile { first, tokens } in tiles(seq) {
            let tile = &mut values[first * depth..][..tokens * depth];
            for t in 0..tokens {
                deal(&x[(first + t) * d_input..][..d_input], tile, tokens, t);
            }
        }
        Self { d_input, seq, values }
    }

    /// Inputs of a token.
    pub fn d_input(&self) -> usize {
        self.d_input
    }

    /// Tokens.
    pub fn seq(&self) -> usize {
        self.seq
    }

    /// `[inputs, tokens]`.
    pub(crate) fn tile(&self, tile: Tile) -> &[f32] {
        let depth = self.d_input.next_multiple_of(BLOCK);
        &self.values[tile.first * depth..][..tile.tokens * depth]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_all_tokens_in_order() {
        for seq in 0..60 {
            let mut next = 0;
            for Tile { first, tokens } in tiles(seq) {
                assert_eq!(first, next);
                next += tokens;
            }
            assert_eq!(next, seq);
        }
        assert_eq!(pieces(130).map(|tile| tile.tokens).collect::<Vec<_>>(), [128, 2]);
        assert_eq!(tiles(18).map(|tile| tile.tokens).collect::<Vec<_>>(), [12, 4, 1, 1]);
    }

    #[test]
    fn every_value_is_where_the_kernels_look_for_it() {
        let (seq, d_input) = (17, 37);
        let code = |t: usize, i: usize| ((t * 31 + i * 7) % 255) as u8 as i8;
        let codes: Vec<i8> = (0..seq * d_input).map(|n| code(n / d_input, n % d_input)).collect();
        let floats: Vec<f32> = codes.iter().map(|&code| f32::from(code)).collect();
        let int8 = Int8Tokens::new(&codes, vec![1.0; seq], d_input);
        let float = FloatTokens::new(&floats, d_input);
        for tile in tiles(seq) {
            for t in 0..tile.tokens {
                for i in 0..48 {
                    let expected = if i < d_input { code(tile.first + t, i) } else { 0 };
                    let group = int8.tile(tile)[i / GROUP * tile.tokens + t];
                    assert_eq!(group[i % GROUP], expected);
                    assert_eq!(float.tile(tile)[i * tile.tokens + t], f32::from(expected));
                }
            }
        }
        assert_eq!(int8.dequantize(), floats);
        assert_eq!(int8.sums()[3], (0..d_input).map(|i| i32::from(code(3, i))).sum::<i32>());
    }
}
