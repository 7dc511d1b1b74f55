//! Other processes.

pub mod to_process;
mod worker;
