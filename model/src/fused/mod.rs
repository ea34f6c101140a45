mod flex;
mod linear;
pub use linear::{linear, plain_linear};
