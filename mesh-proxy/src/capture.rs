//! Listening sockets: how traffic comes to a worker.
//!
//! In: addresses. Out: accepted sockets, given to a closure. Each worker has its own sockets (`SO_REUSEPORT` where there is
//! more than one), so that a connection stays where it was accepted.

pub mod listener;
pub mod vips;

pub use listener::{accept_loop, bind};
