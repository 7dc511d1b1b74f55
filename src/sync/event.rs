//! A flag that can be waited for.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::error::Cancelled;
use crate::runtime::scope::What;
use crate::sync::wait::{Attempt, Source, Wait};
use crate::sync::waiters::Waiters;

/// A flag that tasks wait for. A clone is another handle of the same event.
///
/// # Examples
/// ```
/// use proactor::{spawn, sync::Event};
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let ready = Event::new();
///     let waiting = spawn(ready.wait());
///     ready.set();
///     waiting.await??;
///     assert!(ready.is_set());
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Event {
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// While it is set, nobody waits.
    is_set: Cell<bool>,
    waiters: Waiters,
}

/// What is known about an [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventStatistics {
    /// Futures that wait for it.
    pub tasks_waiting: usize,
}

impl Event {
    /// An event that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag and lets everybody go who waits for it, even if it is cleared before they run. Does nothing if it is
    /// set already.
    pub fn set(&self) {
        if !self.shared.is_set.replace(true) {
            self.shared.waiters.grant_all();
        }
    }

    /// Takes the flag back: who waits from now on waits for the next [`set`](Self::set).
    pub fn clear(&self) {
        self.shared.is_set.set(false);
    }

    /// Whether the flag is set.
    pub fn is_set(&self) -> bool {
        self.shared.is_set.get()
    }

    /// Completes when the flag is set; at once if it is.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// [`Cancelled`], if the wait is cancelled.
    pub fn wait(&self) -> EventWait {
        EventWait { wait: Wait::new(self.clone(), ()) }
    }

    /// How many wait.
    pub fn statistics(&self) -> EventStatistics {
        EventStatistics { tasks_waiting: self.shared.waiters.len() }
    }
}

impl Source for Event {
    type Value = ();
    type Error = Cancelled;

    const WHAT: What = What(&"an event");

    fn waiters(&self) -> &Waiters {
        &self.shared.waiters
    }

    fn attempt(&self, (): ()) -> Attempt<(), Cancelled> {
        if self.is_set() { Attempt::Done } else { Attempt::Wait(()) }
    }

    fn left(&self, _was_granted: bool) {}
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("is_set", &self.is_set())
            .field("tasks_waiting", &self.shared.waiters.len())
            .finish()
    }
}

/// The future of [`Event::wait`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct EventWait {
    wait: Wait<Event>,
}

impl Future for EventWait {
    type Output = Result<(), Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.wait).poll(cx).map_err(|((), cancelled)| cancelled)
    }
}
