//! A channel between loops and threads: each side waits in the way of the place where it is, by awaiting or by blocking.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use crate::error::{Cancelled, Closed, TimedOut, Unsent, WouldBlock};
use crate::runtime::budget;
use crate::runtime::park::block_on;
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check};
use crate::thread::job::may_block;
use crate::thread::queue::{Queue, Taken, Ticket};

const ROOM: What = What(&"room in a channel of threads");
const ITEM: What = What(&"an item of a channel of threads");

/// A channel that holds at most `capacity` items; further senders wait until there is room. With a capacity of zero each
/// item goes from hand to hand: its sender waits until a receiver has it.
///
/// Items arrive in the order in which they were sent, each once. Senders and receivers are cheap to clone, and may be
/// used from loops and from threads at the same time. When the last receiver is gone, sending fails; when the last sender
/// is gone, receivers get what is left and then the end.
///
/// # Examples
/// ```
/// use proactor::thread;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let (sender, receiver) = thread::channel(16);
///     let counts = std::thread::spawn(move || (0..100).try_for_each(|n| sender.send_blocking(n, None)));
///     let mut sum = 0;
///     while let Some(n) = receiver.receive().await? {
///         sum += n;
///     }
///     assert_eq!(sum, 4950);
///     counts.join().expect("no panic")?;
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared { queue: Mutex::new(Queue::new(capacity)) });
    (Sender { shared: shared.clone() }, Receiver { shared })
}

/// A channel of which no sender ever waits. A receiver that is slower than the senders lets it grow without limit: take
/// [`channel`] where that can happen.
pub fn unbounded_channel<T>() -> (Sender<T>, Receiver<T>) {
    channel(usize::MAX)
}

struct Shared<T> {
    queue: Mutex<Queue<T>>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `f` under the lock, and wakes whom it says after.
    fn change<R>(&self, f: impl FnOnce(&mut Queue<T>) -> (R, Option<Waker>)) -> R {
        let (result, waker) = f(&mut self.lock());
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }

    fn close(&self) {
        let woken = self.lock().close();
        woken.into_iter().for_each(Waker::wake);
    }
}

fn closed<T>(item: T) -> Unsent<T, io::Error> {
    Unsent::new(item, Closed::new("the channel").into())
}

/// The sending side of a [`channel`].
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Completes when the channel has the item.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: an item that the channel did not take is in the error, or is dropped with the future; one that
    /// it took arrives.
    ///
    /// # Errors
    /// [`Unsent`] with the item: the channel is closed or the last receiver is gone, or the wait was cancelled.
    #[doc(alias = "put")]
    pub fn send(&self, item: T) -> Sending<'_, T> {
        Sending::new(&self.shared, item, Some(Waiter::new()))
    }

    /// Blocks this thread until the channel has the item, or for at most `limit`; `None` waits for ever.
    ///
    /// # Errors
    /// [`Unsent`] with the item: the channel is closed or the last receiver is gone, the limit passed
    /// ([`TimedOut`](crate::TimedOut)), or this is the thread of an event loop, which would stand still.
    pub fn send_blocking(&self, item: T, limit: Option<Duration>) -> Result<(), Unsent<T, io::Error>> {
        if let Err(error) = may_block() {
            return Err(Unsent::new(item, error));
        }
        let item = match self.try_send(item) {
            Err(unsent) if unsent.error.kind() == io::ErrorKind::WouldBlock => unsent.item,
            result => return result,
        };
        let mut sending = Sending::new(&self.shared, item, None);
        match block_on(pin!(&mut sending), limit) {
            Ok(result) => result,
            // It may have been taken at the last moment.
            Err(TimedOut) => {
                sending.take_back().map_or(Ok(()), |item| Err(Unsent::new(item, TimedOut.into())))
            }
        }
    }

    /// Sends the item if the channel takes it at once.
    ///
    /// # Errors
    /// [`Unsent`] with the item: of kind [`WouldBlock`](io::ErrorKind::WouldBlock) if there is no room, else the channel
    /// is closed or the last receiver is gone.
    #[doc(alias = "send_nowait")]
    pub fn try_send(&self, item: T) -> Result<(), Unsent<T, io::Error>> {
        let put = |queue: &mut Queue<T>| match queue.put(item) {
            Ok(waker) => (Ok(()), waker),
            Err(item) if queue.is_closed() => (Err(closed(item)), None),
            Err(item) => (Err(Unsent::new(item, WouldBlock.into())), None),
        };
        self.shared.change(put)
    }

    /// Closes the channel for all its senders. Those that wait get their items back; receivers get what is left.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Whether nothing can be sent any more.
    pub fn is_closed(&self) -> bool {
        self.shared.lock().is_closed()
    }

    /// How many items the channel holds right now.
    pub fn len(&self) -> usize {
        self.shared.lock().len()
    }

    /// Whether the channel holds no item right now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.lock().senders += 1;
        Self { shared: self.shared.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.senders -= 1;
        let is_last = queue.senders == 0;
        drop(queue);
        if is_last {
            self.shared.close();
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// The receiving side of a [`channel`]. Each item goes to one of its clones.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// Completes with the next item; with `None` when the channel is closed and empty.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the item stays in the channel.
    ///
    /// # Errors
    /// If the wait was cancelled.
    #[doc(alias = "get")]
    pub fn receive(&self) -> Receiving<'_, T> {
        Receiving { shared: &self.shared, ticket: None, waiter: Some(Waiter::new()) }
    }

    /// Blocks this thread until there is an item or the end, or for at most `limit`; `None` waits for ever.
    ///
    /// # Errors
    /// [`TimedOut`](crate::TimedOut), as an [`io::Error`]. On the thread of an event loop, which would stand still.
    pub fn receive_blocking(&self, limit: Option<Duration>) -> io::Result<Option<T>> {
        may_block()?;
        match self.try_receive() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
        block_on(pin!(Receiving { shared: &self.shared, ticket: None, waiter: None }), limit)?
    }

    /// Receives an item that is there already, or the end.
    ///
    /// # Errors
    /// Of kind [`WouldBlock`](io::ErrorKind::WouldBlock) if there is none yet.
    #[doc(alias = "receive_nowait")]
    pub fn try_receive(&self) -> io::Result<Option<T>> {
        match self.shared.change(Queue::take) {
            Taken::Item(item) => Ok(Some(item)),
            Taken::End => Ok(None),
            Taken::Nothing => Err(WouldBlock.into()),
        }
    }

    /// Closes the channel for all its senders. What it holds can still be received.
    pub fn close(&self) {
        self.shared.close();
    }

    /// How many items the channel holds right now.
    pub fn len(&self) -> usize {
        self.shared.lock().len()
    }

    /// Whether the channel holds no item right now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.lock().receivers += 1;
        Self { shared: self.shared.clone() }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.receivers -= 1;
        let is_last = queue.receivers == 0;
        // Nobody will ever want these. They are dropped where nothing is locked.
        let left = if is_last { queue.take_all() } else { VecDeque::new() };
        drop(queue);
        if is_last {
            self.shared.close();
        }
        drop(left);
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Whether the scope that this wait is polled in was cancelled; a thread that blocks is in none.
fn poll_scope(waiter: Option<&Waiter>, cx: &Context<'_>) -> Poll<Result<(), Cancelled>> {
    if waiter.is_some() { check(cx) } else { Poll::Ready(Ok(())) }
}

/// The future of [`Sender::send`].
#[must_use = "futures do nothing unless awaited"]
pub struct Sending<'a, T> {
    shared: &'a Shared<T>,
    stage: Stage<T>,
    /// Where the scope finds this wait; none for a thread that blocks.
    waiter: Option<Waiter>,
}

enum Stage<T> {
    New(T),
    /// The item waits in the queue for room.
    Waiting(Ticket),
    Over,
}

impl<'a, T> Sending<'a, T> {
    fn new(shared: &'a Shared<T>, item: T, waiter: Option<Waiter>) -> Self {
        Self { shared, stage: Stage::New(item), waiter }
    }

    /// The item, if the channel does not have it. After that this future is over.
    fn take_back(&mut self) -> Option<T> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::New(item) => Some(item),
            Stage::Waiting(ticket) => {
                let taken = self.shared.lock().take_back(ticket);
                taken.map(|(item, _)| item)
            }
            Stage::Over => None,
        }
    }

    /// It ends with this error, unless the channel has the item meanwhile.
    fn give_up(&mut self, error: impl Into<io::Error>) -> Result<(), Unsent<T, io::Error>> {
        self.take_back().map_or(Ok(()), |item| Err(Unsent::new(item, error.into())))
    }

    /// The channel took the item, or it never will, or it may yet.
    fn poll_waiting(
        &mut self,
        ticket: Ticket,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unsent<T, io::Error>>> {
        let mut waker = Some(cx.waker().clone()); // foreign code, so before the lock
        let mut queue = self.shared.lock();
        let is_waiting = queue.wait_for_room(ticket, &mut waker);
        let is_closed = queue.is_closed();
        drop(queue);
        drop(waker);
        if !is_waiting {
            self.stage = Stage::Over;
            return Poll::Ready(Ok(()));
        }
        if is_closed {
            return Poll::Ready(self.give_up(Closed::new("the channel")));
        }
        match ready!(poll_scope(self.waiter.as_ref(), cx)) {
            Ok(()) => Poll::Pending,
            Err(cancelled) => Poll::Ready(self.give_up(cancelled)),
        }
    }
}

impl<T> Unpin for Sending<'_, T> {}

impl<T> Future for Sending<'_, T> {
    type Output = Result<(), Unsent<T, io::Error>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Stage::New(_) = this.stage {
            if let Err(cancelled) = ready!(poll_scope(this.waiter.as_ref(), cx)) {
                return Poll::Ready(this.give_up(cancelled));
            }
            ready!(budget::spend(cx));
            let Stage::New(item) = std::mem::replace(&mut this.stage, Stage::Over) else { unreachable!() };
            let put = |queue: &mut Queue<T>| match queue.put(item) {
                Ok(waker) => (Ok(Stage::Over), waker),
                Err(item) if queue.is_closed() => (Err(closed(item)), None),
                Err(item) => (Ok(Stage::Waiting(queue.queue_up(item))), None),
            };
            this.stage = this.shared.change(put)?;
        }
        let polled = match this.stage {
            Stage::Waiting(ticket) => this.poll_waiting(ticket, cx),
            Stage::New(_) | Stage::Over => Poll::Ready(Ok(())),
        };
        if let Some(waiter) = &this.waiter {
            if polled.is_ready() { waiter.clear() } else { waiter.register_for(cx, ROOM) }
        }
        polled
    }
}

impl<T> Drop for Sending<'_, T> {
    fn drop(&mut self) {
        drop(self.take_back());
    }
}

impl<T> fmt::Debug for Sending<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}

/// The future of [`Receiver::receive`].
#[must_use = "futures do nothing unless awaited"]
pub struct Receiving<'a, T> {
    shared: &'a Shared<T>,
    /// The place in the queue of those who wait.
    ticket: Option<Ticket>,
    /// Where the scope finds this wait; none for a thread that blocks.
    waiter: Option<Waiter>,
}

impl<T> Receiving<'_, T> {
    /// Gives the place in the queue up; if an item was announced to it, the next in the queue is told.
    fn leave(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            drop(self.shared.change(|queue| queue.leave(ticket)));
        }
    }
}

impl<T> Unpin for Receiving<'_, T> {}

impl<T> Future for Receiving<'_, T> {
    type Output = io::Result<Option<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // An item that was announced to this wait is an answer that came before any cancel.
        let is_announced = this.ticket.is_some_and(|ticket| !this.shared.lock().is_queued(ticket));
        if !is_announced && let Err(cancelled) = ready!(poll_scope(this.waiter.as_ref(), cx)) {
            this.leave();
            return Poll::Ready(Err(cancelled.into()));
        }
        if this.ticket.is_none() {
            ready!(budget::spend(cx));
        }
        let mut waker = Some(cx.waker().clone()); // foreign code, so before the lock
        let ticket = &mut this.ticket;
        let taken = this.shared.change(|queue| queue.take_or_wait(ticket, &mut waker));
        drop(waker);
        let result = match taken {
            Taken::Item(item) => Some(item),
            Taken::End => None,
            Taken::Nothing => {
                if let Some(waiter) = &this.waiter {
                    waiter.register_for(cx, ITEM);
                }
                return Poll::Pending;
            }
        };
        if let Some(waiter) = &this.waiter {
            waiter.clear();
        }
        Poll::Ready(Ok(result))
    }
}

impl<T> Drop for Receiving<'_, T> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<T> fmt::Debug for Receiving<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiving").finish_non_exhaustive()
    }
}
