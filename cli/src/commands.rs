//! One file a command.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod completions;
#[cfg(feature = "train")]
pub(crate) mod config;
pub(crate) mod data;
pub(crate) mod devices;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod man;
#[cfg(feature = "train")]
pub(crate) mod plot;
#[cfg(feature = "train")]
pub(crate) mod quickstart;
#[cfg(feature = "train")]
pub(crate) mod report;
#[cfg(feature = "train")]
pub(crate) mod sweep;
#[cfg(feature = "train")]
pub(crate) mod train;
pub(crate) mod verify;
