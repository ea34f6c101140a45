//! One file a command.

pub(crate) mod data;
pub(crate) mod devices;
#[cfg(feature = "train")]
pub(crate) mod export;
pub(crate) mod generate;
#[cfg(feature = "train")]
pub(crate) mod plot;
#[cfg(feature = "train")]
pub(crate) mod quickstart;
#[cfg(feature = "train")]
pub(crate) mod report;
#[cfg(feature = "train")]
pub(crate) mod train;
pub(crate) mod verify;
