//! Tests from the outside. One crate, as each would compile all kernels anew.

mod bits;
mod common;
mod edges;
mod gradients;
mod hard;
mod oracle;
mod plan;
mod weights;
mod zeros;
