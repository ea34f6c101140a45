//! The processes of a run: this one alone, or those that `mpirun` or `srun` started together.

use std::time::Duration;

use anyhow::Result;
use tern_train::ranks::{Alone, Ranks};

use crate::terminal::{Terminal, message};

#[cfg(feature = "mpi")]
mod mpi;

/// What launchers of MPI programs tell a process about its place: Open MPI, PMIx (`srun --mpi=pmix` too), and PMI (MPICH,
/// Intel MPI, `srun --mpi=pmi2`).
const LAUNCHED: [&str; 3] = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"];

/// How long a rank keeps an error of its own back: most errors are those of all ranks, and rank 0 says them.
const FOR_RANK_0_TO_SPEAK: Duration = Duration::from_secs(1);

/// Joins the other processes, if a launcher started this one.
///
/// # Errors
///
/// If one did, and this build has no MPI.
pub(crate) fn start() -> Result<Box<dyn Ranks>> {
    if LAUNCHED.iter().all(|name| std::env::var_os(name).is_none()) {
        return Ok(Box::new(Alone));
    }
    #[cfg(feature = "mpi")]
    return Ok(Box::new(mpi::World::join()?));
    #[cfg(not(feature = "mpi"))]
    anyhow::bail!(
        "an MPI launcher started this program, which was built without MPI and would train as many models as there are \
         processes; build with `--features mpi`"
    )
}

/// Returns the error of a process alone; says that of a rank, and ends all ranks.
///
/// # Errors
///
/// The one that is given.
pub(crate) fn fail<T>(ranks: &dyn Ranks, error: anyhow::Error, terminal: &Terminal) -> Result<T> {
    if ranks.size() == 1 {
        return Err(error);
    }
    if ranks.is_first() {
        terminal.error(&error);
    } else {
        std::thread::sleep(FOR_RANK_0_TO_SPEAK);
        terminal.error(&anyhow::anyhow!("rank {}: {}", ranks.rank(), message(&error)));
    }
    #[cfg(feature = "mpi")]
    mpi::abort();
    #[cfg(not(feature = "mpi"))]
    Err(error)
}
