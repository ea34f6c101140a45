//! Ranks over MPI. Floats are carried, never reduced: MPI may add them in any order.

use anyhow::{Context, Result};
use mpi::Threading;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};
use tern_train::ranks::Ranks;

/// The world of all processes that were started together. An error inside MPI ends them all, as MPI has it by default.
pub(super) struct World {
    world: SimpleCommunicator,
    /// Leaves MPI when it is dropped, which waits for the other ranks.
    _universe: Universe,
}

impl World {
    /// Joins the world; only this thread may call it.
    ///
    /// # Errors
    ///
    /// If MPI was joined before.
    pub(super) fn join() -> Result<Self> {
        let (universe, _) = mpi::initialize_with_threading(Threading::Funneled)
            .context("MPI is at work in this process already")?;
        Ok(Self { world: universe.world(), _universe: universe })
    }
}

impl Ranks for World {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn exchange(&self, parts: &[f32], received: &mut [f32]) {
        self.world.all_to_all_into(parts, received);
    }

    fn gather(&self, own: &[f32], all: &mut [f32]) {
        self.world.all_gather_into(own, all);
    }
}

/// Ends the processes of all ranks.
pub(super) fn abort() -> ! {
    SimpleCommunicator::world().abort(1)
}
