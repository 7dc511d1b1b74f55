//! An async runtime for Linux servers on io_uring, with an epoll driver for where that is missing.
//!
#![doc = include_str!("../README.md")]
#![warn(unnameable_types)]

#[cfg(not(target_os = "linux"))]
compile_error!("proactor stands on io_uring and epoll: it runs on Linux only");

// In the order of the layers: each may use those above it.
pub mod buf;
pub mod cancel;
pub mod compat;
pub mod context;
mod driver;
mod error;
pub mod event_loop;
pub mod fs;
pub mod future;
pub mod guide;
pub mod net;
mod op;
pub mod process;
mod runtime;
pub mod signal;
pub mod stream;
pub mod sync;
mod sys;
pub mod thread;
pub mod transport;
pub mod workers;

pub use driver::{DriverChoice, DriverKind, DriverReport, Metrics};
pub use error::{
    Broken, BrokenWorker, Busy, Cancelled, Closed, DelimiterNotFound, EndOfStream, Failed, IncompleteRead,
    JoinError, LimitOverrun, MayBeCancelled, SendfileNotAvailable, TimedOut, TypedAttributeLookupError,
    Unbalanced, Unsent, WorkerPanicked, WouldBlock,
};
pub use runtime::{
    Builder, EventLoop, Interval, LoopHandle, RemoteTask, Sleep, Task, TaskFactory, TaskId, TaskInfo,
    TaskState, TaskTree, Timeout, YieldNow, all_tasks, current, current_task, interval, metrics, nop, run,
    sleep, sleep_until, spawn, task_tree, timeout, yield_now,
};
