//! How traffic comes to a worker: listening sockets, and what the kernel's rules bring there.
//!
//! In: addresses. Out: accepted sockets, given to a closure, and for captured ones the address that the client dialled.
//! Each worker has its own sockets (`SO_REUSEPORT` where there is more than one), so that a connection stays where it was
//! accepted.

pub mod addresses;
pub mod application;
pub mod command;
pub mod listener;
pub mod loopback;
pub mod original;
pub mod program;
pub mod rules;
pub mod vips;

pub use application::Application;
pub use listener::{accept_loop, bind};
