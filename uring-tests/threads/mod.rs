//! Loops and threads: one loop beside others, functions in threads, the way back, executors, and channels between them.

mod channel;
mod executor;
mod from_thread;
mod loops;
mod portal;
mod scopes;
mod to_thread;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Far beyond what anything here takes.
const LIMIT: Option<std::time::Duration> = Some(std::time::Duration::from_secs(60));

/// Polls a future once, for nobody.
fn poll_now<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}
