//! Threads beside the loop: functions for them, their way back into the loop, and channels between the two.

mod channel;
mod executor;
pub mod from_thread;
mod job;
mod portal;
mod queue;
pub mod to_thread;

pub use channel::{Receiver, Receiving, Sender, Sending, channel, unbounded_channel};
pub use executor::{Executor, ExecutorBuilder};
pub use job::Job;
pub(crate) use job::{InPool, Work};
pub use portal::{
    BlockingPortal, Middle, PortalTaskStatus, PortalThread, Wrapped, start_blocking_portal,
    start_blocking_portal_with,
};
pub(crate) use to_thread::THREADS;
