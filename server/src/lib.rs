//! A Quorate member as a library: start one with [`config::Config`], stop it, or embed one in a test.

mod alarm;
pub mod api;
pub mod archive;
mod authority;
pub mod chance;
pub mod config;
pub mod connection;
pub mod consensus;
pub mod data_dir;
mod due;
mod ephemeral;
pub mod error;
#[cfg(test)]
mod fuzzing;
pub mod leader;
mod merges;
mod pump;
pub mod recipes;
mod relay;
pub mod restore;
mod rewrites;
mod scheduling;
pub mod serve;
mod server;
mod socket;
pub mod store_rocks;
pub mod sync;
pub mod tasks;
pub mod watch;

pub use ephemeral::{Ephemeral, ephemeral};
pub use server::{Server, StartError};
