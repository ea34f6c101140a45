//! Whether 2:4 holds: of four consecutive inputs at most two are not zero.

use serde::Serialize;

/// The groups of four trits of a matrix, counted by reading them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TwoFour {
    /// Groups.
    pub groups: u64,
    /// Groups with more than two trits that are not zero: 2:4 holds where there is none.
    pub broken: u64,
    /// Groups that are all zeros.
    pub zero: u64,
}

impl TwoFour {
    /// Counts the groups of rows; `None` if the rows end inside one.
    ///
    /// # Shapes
    ///
    /// - `trits`: `[d_output, d_input]`
    pub(super) fn count(trits: &[i8], d_input: usize) -> Option<Self> {
        if !d_input.is_multiple_of(4) {
            return None;
        }
        let mut counted = Self::default();
        for group in trits.as_chunks::<4>().0 {
            let non_zeros: u64 = group.iter().map(|&trit| u64::from(trit != 0)).sum();
            counted.groups += 1;
            counted.broken += u64::from(non_zeros > 2);
            counted.zero += u64::from(non_zeros == 0);
        }
        Some(counted)
    }

    /// The groups of two matrices together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            groups: self.groups + other.groups,
            broken: self.broken + other.broken,
            zero: self.zero + other.zero,
        }
    }

    /// Whether no group breaks the rule.
    pub fn holds(&self) -> bool {
        self.broken == 0
    }
}
