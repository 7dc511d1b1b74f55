//! Threads beside the loop: functions for them, their way back into the loop, and channels between the two.

mod channel;
mod executor;
pub mod from_thread;
mod job;
mod queue;
pub mod to_thread;

pub use channel::{Receiver, Receiving, Sender, Sending, Unsent, channel, unbounded_channel};
pub use executor::{Executor, ExecutorBuilder};
pub(crate) use job::InPool;
pub use job::Job;
