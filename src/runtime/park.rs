//! Blocking a thread that runs no loop until a future is done.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::error::TimedOut;
use crate::runtime::budget;

/// A thread that waits to be woken.
#[derive(Default)]
struct Parked {
    woken: Mutex<bool>,
    bell: Condvar,
}

impl Parked {
    /// Waits until somebody wakes this thread, or until `end`; false if the time is over.
    fn wait(&self, end: Option<Instant>) -> bool {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        while !std::mem::take(&mut *woken) {
            woken = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return false,
                Some(left) => self.bell.wait_timeout(woken, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.bell.wait(woken).unwrap_or_else(PoisonError::into_inner),
            };
        }
        true
    }
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_one();
    }
}

/// Polls `future` on this thread until it is done, for at most `limit`. A future that is done at once wins over a limit
/// of zero.
pub(crate) fn block_on<F: Future + ?Sized>(
    mut future: Pin<&mut F>,
    limit: Option<Duration>,
) -> Result<F::Output, TimedOut> {
    // Beyond the end of the clock is for ever.
    let end = limit.and_then(|limit| Instant::now().checked_add(limit));
    let parked = Arc::new(Parked::default());
    let waker = Waker::from(parked.clone());
    let mut cx = Context::from_waker(&waker);
    loop {
        budget::refill();
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return Ok(value);
        }
        if !parked.wait(end) {
            return Err(TimedOut);
        }
    }
}
