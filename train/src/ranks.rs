//! A run by several processes, its ranks: who computes which micro-step, and how all end up with the same sums.
//!
//! Micro-step `i` of a step is computed by rank `i mod N`, so that the ranks together do in a round what one process does in
//! `N` micro-steps. Sums are taken in the order of micro-steps, one after the other, whatever the number of ranks: floats
//! are only carried between the ranks, never added on the way. So the number of ranks changes no byte of a run.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use tern_format::checksum::sha256;
use tern_model::parameters::{export, values};

use crate::config::RunConfig;
use crate::error::{Error, Result, rule};
use crate::gradients::Gradients;

/// The processes of a run. All of them call the same methods in the same order; each call waits for the others.
///
/// What stops one rank ends the program of all, so there is no error to return.
pub trait Ranks {
    /// This process, from 0 to below [`Ranks::size`]. Rank 0 alone prints and writes.
    fn rank(&self) -> usize;
    /// How many processes there are.
    fn size(&self) -> usize;
    /// Sends part `r` of `parts` to rank `r`, and receives the part that each rank has for this one, in the order of ranks.
    ///
    /// # Shapes
    ///
    /// - `parts`, `received`: `[size, n]`
    fn exchange(&self, parts: &[f32], received: &mut [f32]);
    /// Receives what each rank has, in the order of ranks.
    ///
    /// # Shapes
    ///
    /// - `own`: `[n]`
    /// - `all`: `[size, n]`
    fn gather(&self, own: &[f32], all: &mut [f32]);
}

/// A process that trains by itself.
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn exchange(&self, parts: &[f32], received: &mut [f32]) {
        received.copy_from_slice(parts);
    }

    fn gather(&self, own: &[f32], all: &mut [f32]) {
        all.copy_from_slice(own);
    }
}

impl dyn Ranks + '_ {
    /// Whether this is the rank that prints and writes.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Those of `count` items that this rank computes.
    pub fn share(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        (self.rank()..count).step_by(self.size())
    }

    /// Returns when all ranks are here.
    pub fn wait(&self) {
        self.first(0.0);
    }

    /// Whether any rank says so.
    pub fn any(&self, own: bool) -> bool {
        self.all(&[f32::from(u8::from(own))]).contains(&1.0)
    }

    /// Rank 0's value.
    pub fn first(&self, own: f32) -> f32 {
        self.all(&[own])[0]
    }

    /// The values of `count` items in their order, of which this rank has computed its share.
    pub fn in_order(&self, own: &[f32], count: usize) -> Vec<f32> {
        let rounds = count.div_ceil(self.size());
        let mut padded = own.to_vec();
        padded.resize(rounds, 0.0);
        let all = self.all(&padded);
        (0..count).map(|item| all[item % self.size() * rounds + item / self.size()]).collect()
    }

    /// Refuses ranks that do not have rank 0's text, which is as long on all; `what` names it.
    ///
    /// # Errors
    ///
    /// [`Error::RanksDiffer`], on all ranks alike.
    pub fn agree(&self, what: &'static str, text: &str) -> Result<()> {
        let own: Vec<f32> = text.bytes().map(f32::from).collect();
        let all = self.all(&own);
        match all.chunks(own.len()).position(|other| other != &all[..own.len()]) {
            None => Ok(()),
            Some(rank) => Err(Error::RanksDiffer { rank, what }),
        }
    }

    /// Refuses ranks whose weights are not rank 0's to the bit.
    ///
    /// # Errors
    ///
    /// As `agree`.
    pub(crate) fn agree_on_weights<M: Module>(&self, model: &M) -> Result<()> {
        if self.size() == 1 {
            return Ok(());
        }
        let mut hashes = String::new();
        for (_, values) in export(model).values() {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            hashes.push_str(&sha256(&bytes));
        }
        self.agree("weights", &sha256(hashes.as_bytes()))
    }

    /// Refuses a configuration whose steps cannot be shared evenly.
    ///
    /// # Errors
    ///
    /// Names `train.grad_accum` and both numbers.
    pub fn check(&self, config: &RunConfig) -> Result<()> {
        let (size, grad_accum) = (self.size(), config.train.grad_accum);
        rule(
            grad_accum.is_multiple_of(size),
            "train.grad_accum",
            format!(
                "must be a multiple of the number of ranks, {size}, among which the micro-batches of a step are shared, \
                 is {grad_accum}"
            ),
        )
    }

    fn all(&self, own: &[f32]) -> Vec<f32> {
        let mut all = vec![0.0; own.len() * self.size()];
        self.gather(own, &mut all);
        all
    }
}

/// Loss and gradients of a step, summed over its micro-steps in their order.
pub struct StepSum<'a> {
    ranks: &'a dyn Ranks,
    losses: Vec<f32>,
    gradients: Gradients,
    exchanged: PartialSum<'a>,
    layout: Vec<(String, usize)>,
}

impl<'a> StepSum<'a> {
    /// Of no micro-step yet.
    pub fn new(ranks: &'a dyn Ranks) -> Self {
        Self {
            ranks,
            losses: Vec::new(),
            gradients: Gradients::default(),
            exchanged: PartialSum::new(ranks, PIECE),
            layout: Vec::new(),
        }
    }

    /// Adds the loss of a micro-step, its share of the step's.
    pub fn add_loss(&mut self, loss: f32) {
        self.losses.push(loss);
    }

    /// Adds the gradients that a backward pass left.
    pub fn add<M: Module>(&mut self, model: &M, backward: burn::tensor::Gradients) {
        self.gradients.add(model, backward);
    }

    /// Ends a round: adds what each rank has in the order of ranks. Nothing to do for a process alone.
    pub fn exchange(&mut self) {
        if self.ranks.size() == 1 {
            return;
        }
        let gradients = std::mem::take(&mut self.gradients);
        self.layout.clear();
        let layout = &mut self.layout;
        self.exchanged.add(gradients.into_iter().map(|(name, gradient)| {
            let gradient = values(gradient);
            layout.push((name, gradient.len()));
            gradient
        }));
    }

    /// The loss of the step, nats per token, and its gradients on `device`; the same on all ranks.
    pub fn finish(self, device: &Device) -> (f64, Gradients) {
        let Self { ranks, losses, gradients, exchanged, layout } = self;
        let losses = ranks.in_order(&losses, losses.len() * ranks.size());
        let loss = losses.into_iter().map(f64::from).fold(0.0, |sum, loss| sum + loss);
        if ranks.size() == 1 {
            return (loss, gradients);
        }
        let device = device.clone().inner();
        let sums = exchanged.gather();
        let mut rest = &sums[..];
        let tensor = |(name, length)| {
            let (values, later) = rest.split_at(length);
            rest = later;
            (name, Tensor::from_data(TensorData::new(values.to_vec(), [length]), &device))
        };
        (loss, layout.into_iter().map(tensor).collect())
    }
}

/// Floats that are exchanged at once by all ranks together, so that the buffers stay small beside the gradients: 16 MiB.
const PIECE: usize = 1 << 22;

/// The sum of vectors that all ranks have, of which each rank adds up a part.
///
/// A vector is cut into pieces, a piece into a part for each rank. For each round of vectors a rank receives its part of
/// all others' and adds them one after the other; the parts are put together once, at the end. Of a vector of `n` floats a
/// rank so sends `4 n (N - 1) / N` bytes a round, and as many at the end, as in the fastest all-reduce.
struct PartialSum<'a> {
    ranks: &'a dyn Ranks,
    /// Floats of a part of a whole piece.
    part: usize,
    /// This rank's part of each piece, one behind the other; none before the first round.
    own: Vec<f32>,
}

impl<'a> PartialSum<'a> {
    fn new(ranks: &'a dyn Ranks, piece: usize) -> Self {
        Self { ranks, part: (piece / ranks.size()).max(1), own: Vec::new() }
    }

    /// Adds each rank's vector, given in slices, in the order of ranks.
    fn add(&mut self, vector: impl Iterator<Item = Vec<f32>>) {
        let size = self.ranks.size();
        let whole = self.part * size;
        let mut piece = Vec::with_capacity(whole);
        let mut received = vec![0.0; whole];
        let is_first_round = self.own.is_empty();
        let mut done = 0;
        let mut reduce = |piece: &mut Vec<f32>| {
            // The last piece may be short; zeros make its parts equal.
            piece.resize(piece.len().next_multiple_of(size), 0.0);
            let received = &mut received[..piece.len()];
            self.ranks.exchange(piece, received);
            let part = piece.len() / size;
            for (rank, theirs) in received.chunks(part).enumerate() {
                // Not added to zeros: 0 + -0 is 0.
                if is_first_round && rank == 0 {
                    self.own.extend_from_slice(theirs);
                } else {
                    let sums = &mut self.own[done..done + part];
                    sums.iter_mut().zip(theirs).for_each(|(sum, value)| *sum += value);
                }
            }
            done += part;
            piece.clear();
        };
        for slice in vector {
            let mut rest = &slice[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(whole - piece.len()));
                piece.extend_from_slice(now);
                rest = later;
                if piece.len() == whole {
                    reduce(&mut piece);
                }
            }
        }
        if !piece.is_empty() {
            reduce(&mut piece);
        }
    }

    /// The whole sum, with what the last piece was filled up by.
    fn gather(self) -> Vec<f32> {
        let mut sums = vec![0.0; self.own.len() * self.ranks.size()];
        let pieces = sums.chunks_mut(self.part * self.ranks.size());
        for (own, piece) in self.own.chunks(self.part).zip(pieces) {
            self.ranks.gather(own, piece);
        }
        sums
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::{Barrier, Mutex};

    use super::*;

    /// Ranks that are threads of this process, and a place where each puts what the others read.
    struct Threads {
        posted: Vec<Mutex<Vec<f32>>>,
        barrier: Barrier,
    }

    struct Thread<'a> {
        all: &'a Threads,
        rank: usize,
    }

    impl Thread<'_> {
        /// Posts `own`, copies slice `of(rank)` of every rank's into `all`.
        fn swap(&self, own: &[f32], all: &mut [f32], of: impl Fn(&[f32]) -> &[f32]) {
            *self.all.posted[self.rank].lock().unwrap() = own.to_vec();
            self.all.barrier.wait();
            let parts = all.chunks_mut(all.len() / self.size());
            for (part, posted) in parts.zip(&self.all.posted) {
                part.copy_from_slice(of(&posted.lock().unwrap()));
            }
            self.all.barrier.wait();
        }
    }

    impl Ranks for Thread<'_> {
        fn rank(&self) -> usize {
            self.rank
        }

        fn size(&self) -> usize {
            self.all.posted.len()
        }

        fn exchange(&self, parts: &[f32], received: &mut [f32]) {
            let part = parts.len() / self.size();
            self.swap(parts, received, |theirs| &theirs[self.rank * part..(self.rank + 1) * part]);
        }

        fn gather(&self, own: &[f32], all: &mut [f32]) {
            self.swap(own, all, |theirs| theirs);
        }
    }

    /// What each of `size` ranks makes of something that all do.
    fn on_ranks<T: Send>(size: usize, work: impl Fn(&dyn Ranks) -> T + Sync) -> Vec<T> {
        let all = Threads {
            posted: (0..size).map(|_| Mutex::default()).collect(),
            barrier: Barrier::new(size),
        };
        let (all, work) = (&all, &work);
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..size).map(|rank| scope.spawn(move || work(&Thread { all, rank }))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// Noise whose sum depends on its order; now and then a negative zero.
    fn noise(micro_step: usize, length: usize) -> Vec<f32> {
        let mut state = micro_step as u64 + 1;
        let mut value = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let noise = (state >> 40) as f32 / 8e6 - 1.0;
            if state >> 61 == 0 { -0.0 } else { noise }
        };
        (0..length).map(|_| value()).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn sums_are_those_of_one_process_to_the_bit_whatever_the_number_of_ranks() {
        const MICRO_STEPS: usize = 12;
        for length in [1, 2, 7, 64, 65, 200] {
            let expected = (1..MICRO_STEPS).fold(noise(0, length), |sum, i| {
                sum.iter().zip(noise(i, length)).map(|(sum, value)| sum + value).collect()
            });
            for size in [1, 2, 3, 4, 6, 12] {
                let sums = on_ranks(size, |ranks| {
                    let mut sum = PartialSum::new(ranks, 16);
                    for micro_step in ranks.share(MICRO_STEPS) {
                        let vector = noise(micro_step, length);
                        sum.add(vector.chunks(5).map(<[f32]>::to_vec));
                    }
                    sum.gather()
                });
                for sum in sums {
                    assert_eq!(bits(&sum[..length]), bits(&expected), "{length} over {size}");
                }
            }
        }
    }

    #[test]
    fn items_come_back_in_their_order() {
        for (size, count) in [(1, 5), (2, 5), (3, 5), (4, 2)] {
            let items: Vec<f32> = (0..count).map(|item| item as f32).collect();
            let all = on_ranks(size, |ranks| {
                let own: Vec<f32> = ranks.share(count).map(|item| items[item]).collect();
                ranks.in_order(&own, count)
            });
            assert!(all.iter().all(|found| *found == items), "{count} over {size}: {all:?}");
        }
    }

    #[test]
    fn what_one_rank_says_or_has_otherwise_is_known_to_all() {
        let said = on_ranks(3, |ranks| (ranks.any(ranks.rank() == 2), ranks.any(false)));
        assert_eq!(said, [(true, false); 3]);
        assert_eq!(on_ranks(3, |ranks| ranks.first(ranks.rank() as f32 + 5.0)), [5.0; 3]);
        let differ = on_ranks(3, |ranks| {
            ranks.agree("weights", "same").unwrap();
            ranks
                .agree("weights", if ranks.rank() == 1 { "b" } else { "a" })
                .unwrap_err()
                .to_string()
        });
        assert!(
            differ.iter().all(|error| error.contains("rank 1 has other weights")),
            "{differ:?}"
        );
    }
}
