//! Queues between tasks that produce and tasks that consume.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::error::{Cancelled, Unbalanced, Unsent, WouldBlock};
use crate::runtime::scope::What;
use crate::sync::channel::Channel;
use crate::sync::order::{Fifo, Lifo, Order, Priority};
use crate::sync::wait::{Attempt, Source, Wait};
use crate::sync::waiters::Waiters;

/// A queue that gives the item first that came first. See [`OrderedQueue`].
pub type Queue<T> = OrderedQueue<Fifo<T>>;

/// A queue that gives the item first that came last. See [`OrderedQueue`].
pub type LifoQueue<T> = OrderedQueue<Lifo<T>>;

/// A queue that gives the lowest item first, and of equal ones that which came first. See [`OrderedQueue`].
///
/// Comparing items must not use the queue itself; that panics.
pub type PriorityQueue<T> = OrderedQueue<Priority<T>>;

/// A queue of items between tasks; the order is that of `O`: [`Queue`], [`LifoQueue`], [`PriorityQueue`]. A clone is another
/// handle of the same queue.
///
/// Those who wait for an item, and those who wait for room, get it in the order in which they came. An item that somebody
/// waited for counts as gotten at once.
///
/// # Examples
/// ```
/// use proactor::{spawn, sync::Queue};
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let jobs = Queue::new(10);
///     let worker = jobs.clone();
///     let worker = spawn(async move {
///         for _ in 0..3 {
///             let _job: u32 = worker.get().await?;
///             worker.task_done()?;
///         }
///         Ok::<_, std::io::Error>(())
///     });
///     for job in 0..3 {
///         jobs.put(job).await?;
///     }
///     jobs.join().await?;
///     worker.await?
/// })
/// # }
/// ```
pub struct OrderedQueue<O: Order> {
    shared: Rc<Shared<O>>,
}

struct Shared<O: Order> {
    channel: Channel<O>,
    /// Items of which the consumer said that they are done.
    done: Cell<u64>,
    /// Nobody waits while everything is done.
    joiners: Waiters,
}

impl<O: Order> OrderedQueue<O> {
    /// A queue of at most `maxsize` items, or of any number if that is 0.
    pub fn new(maxsize: usize) -> Self {
        let capacity = if maxsize == 0 { usize::MAX } else { maxsize };
        let channel = Channel::new(capacity);
        Self { shared: Rc::new(Shared { channel, done: Cell::new(0), joiners: Waiters::default() }) }
    }

    /// Completes with the next item, which is taken out.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the item stays where it is in the queue. The place among those who wait is given up.
    ///
    /// # Errors
    /// [`Cancelled`], if the wait is cancelled.
    pub fn get(&self) -> Get<O> {
        Get { wait: Wait::new(Getting(self.clone()), ()) }
    }

    /// Takes out the next item, if there is one.
    ///
    /// # Errors
    /// [`WouldBlock`], if there is none.
    #[doc(alias = "try_recv")]
    pub fn get_nowait(&self) -> Result<O::Item, WouldBlock> {
        self.shared.channel.receive_now().ok_or(WouldBlock)
    }

    /// Completes when `item` is in the queue, or with whoever waited for it.
    ///
    /// # Cancel safety
    /// *May have happened*: the item is in the queue, or dropped with the future.
    ///
    /// # Errors
    /// [`Cancelled`], with the item, if the wait is cancelled.
    pub fn put(&self, item: O::Item) -> Put<O> {
        Put { wait: Wait::new(Putting(self.clone()), item) }
    }

    /// Puts `item` into the queue, if there is room.
    ///
    /// # Errors
    /// [`WouldBlock`], with the item, if there is none.
    #[doc(alias = "try_send")]
    pub fn put_nowait(&self, item: O::Item) -> Result<(), Unsent<O::Item, WouldBlock>> {
        self.shared.channel.send_now(item).map_err(|item| Unsent::new(item, WouldBlock))
    }

    /// Says that one item is done that was taken out of the queue. When all are, [`join`](Self::join) completes.
    ///
    /// # Errors
    /// [`Unbalanced`], if it is called more often than there were items.
    pub fn task_done(&self) -> Result<(), Unbalanced> {
        if self.unfinished() == 0 {
            return Err(Unbalanced::new("more items were done than were put into the queue"));
        }
        self.shared.done.set(self.shared.done.get() + 1);
        if self.unfinished() == 0 {
            self.shared.joiners.grant_all();
        }
        Ok(())
    }

    /// Completes when every item that came into the queue is [done](Self::task_done); at once if none is left. Items whose
    /// [`put`](Self::put) waits for room are not counted yet.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// [`Cancelled`], if the wait is cancelled.
    pub fn join(&self) -> QueueJoin<O> {
        QueueJoin { wait: Wait::new(Joining(self.clone()), ()) }
    }

    /// The number of items in the queue.
    #[doc(alias = "qsize")]
    pub fn len(&self) -> usize {
        self.shared.channel.len()
    }

    /// Whether the queue is empty.
    #[doc(alias = "empty")]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is no room. A queue without [`maxsize`](Self::maxsize) is never full.
    #[doc(alias = "full")]
    pub fn is_full(&self) -> bool {
        self.len() >= self.shared.channel.capacity()
    }

    /// The most items that the queue takes; 0: any number.
    pub fn maxsize(&self) -> usize {
        match self.shared.channel.capacity() {
            usize::MAX => 0,
            capacity => capacity,
        }
    }

    fn unfinished(&self) -> u64 {
        self.shared.channel.taken_in() - self.shared.done.get()
    }
}

impl<O: Order> Clone for OrderedQueue<O> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

/// A queue that takes any number of items.
impl<O: Order> Default for OrderedQueue<O> {
    fn default() -> Self {
        Self::new(0)
    }
}

impl<O: Order> fmt::Debug for OrderedQueue<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrderedQueue")
            .field("len", &self.len())
            .field("maxsize", &self.maxsize())
            .field("unfinished", &self.unfinished())
            .field("getters_waiting", &self.shared.channel.receivers().len())
            .field("putters_waiting", &self.shared.channel.senders().len())
            .finish_non_exhaustive()
    }
}

/// An item, which is promised before it is taken.
struct Getting<O: Order>(OrderedQueue<O>);

impl<O: Order> Source for Getting<O> {
    type Value = ();
    type Error = Cancelled;

    const WHAT: What = What(&"an item of a queue");

    fn waiters(&self) -> &Waiters {
        self.0.shared.channel.receivers()
    }

    fn attempt(&self, (): ()) -> Attempt<(), Cancelled> {
        if self.0.shared.channel.promise() { Attempt::Done } else { Attempt::Wait(()) }
    }

    fn left(&self, was_granted: bool) {
        if was_granted {
            self.0.shared.channel.withdraw_promise();
        }
    }
}

/// Room for an item.
struct Putting<O: Order>(OrderedQueue<O>);

impl<O: Order> Source for Putting<O> {
    type Value = O::Item;
    type Error = Cancelled;

    const WHAT: What = What(&"room in a queue");

    fn waiters(&self) -> &Waiters<O::Item> {
        self.0.shared.channel.senders()
    }

    fn attempt(&self, item: O::Item) -> Attempt<O::Item, Cancelled> {
        match self.0.shared.channel.send_now(item) {
            Ok(()) => Attempt::Done,
            Err(item) => Attempt::Wait(item),
        }
    }

    fn left(&self, _was_granted: bool) {}
}

/// The end of all work.
struct Joining<O: Order>(OrderedQueue<O>);

impl<O: Order> Source for Joining<O> {
    type Value = ();
    type Error = Cancelled;

    const WHAT: What = What(&"the end of the work in a queue");

    fn waiters(&self) -> &Waiters {
        &self.0.shared.joiners
    }

    fn attempt(&self, (): ()) -> Attempt<(), Cancelled> {
        if self.0.unfinished() == 0 { Attempt::Done } else { Attempt::Wait(()) }
    }

    fn left(&self, _was_granted: bool) {}
}

/// The future of [`OrderedQueue::get`].
#[must_use = "futures do nothing unless awaited"]
pub struct Get<O: Order> {
    wait: Wait<Getting<O>>,
}

impl<O: Order> Future for Get<O> {
    type Output = Result<O::Item, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let promised = Pin::new(&mut self.wait).poll(cx);
        promised.map(|promised| match promised {
            Ok(()) => Ok(self.wait.source().0.shared.channel.receive_promised()),
            Err(((), cancelled)) => Err(cancelled),
        })
    }
}

/// The future of [`OrderedQueue::put`].
#[must_use = "futures do nothing unless awaited"]
pub struct Put<O: Order> {
    wait: Wait<Putting<O>>,
}

impl<O: Order> Future for Put<O> {
    type Output = Result<(), Unsent<O::Item, Cancelled>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.wait).poll(cx).map_err(|(item, cancelled)| Unsent::new(item, cancelled))
    }
}

/// The future of [`OrderedQueue::join`].
#[must_use = "futures do nothing unless awaited"]
pub struct QueueJoin<O: Order> {
    wait: Wait<Joining<O>>,
}

impl<O: Order> Future for QueueJoin<O> {
    type Output = Result<(), Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.wait).poll(cx).map_err(|((), cancelled)| cancelled)
    }
}

macro_rules! debug {
    ($($name:ident)*) => {
        $(impl<O: Order> fmt::Debug for $name<O> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.wait).finish()
            }
        })*
    };
}
debug!(Get Put QueueJoin);
