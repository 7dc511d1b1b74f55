//! Streams of objects between the tasks of a loop.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::error::{Broken, Cancelled, Closed, EndOfStream, MayBeCancelled, Unsent, WouldBlock};
use crate::runtime::scope::What;
use crate::sync::channel::Channel;
use crate::sync::order::Fifo;
use crate::sync::wait::{Attempt, Source, Wait};
use crate::sync::waiters::Waiters;

/// Makes a stream of objects and gives its two ends, each of which can be cloned.
///
/// `max_buffer` items are held for receivers who are late; with 0 each item goes straight from a sender to a receiver, and
/// with [`usize::MAX`] a sender never waits. Those who wait get their turn in the order in which they came.
///
/// # Examples
/// ```
/// use proactor::{spawn, stream::memory_object_stream};
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let (sender, receiver) = memory_object_stream(0);
///     let producer = spawn(async move {
///         for number in 0..3 {
///             sender.send(number).await?;
///         }
///         // Dropping the last sender ends the stream.
///         Ok::<_, std::io::Error>(())
///     });
///     let mut sum = 0;
///     while let Some(number) = receiver.next().await? {
///         sum += number;
///     }
///     assert_eq!(sum, 3);
///     producer.await?
/// })
/// # }
/// ```
#[doc(alias = "create_memory_object_stream")]
pub fn memory_object_stream<T>(max_buffer: usize) -> (ObjectSender<T>, ObjectReceiver<T>) {
    let shared = Rc::new(Shared {
        channel: Channel::new(max_buffer),
        open_senders: Cell::new(0),
        open_receivers: Cell::new(0),
    });
    (ObjectSender::of(&shared), ObjectReceiver::of(&shared))
}

struct Shared<T> {
    channel: Channel<Fifo<T>>,
    open_senders: Cell<usize>,
    open_receivers: Cell<usize>,
}

/// What is known about a memory object stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryObjectStreamStatistics {
    /// Items in the buffer.
    pub current_buffer_used: usize,
    /// The most items that the buffer takes.
    pub max_buffer_size: usize,
    /// Clones of the sending end that are open.
    pub open_send_streams: usize,
    /// Clones of the receiving end that are open.
    pub open_receive_streams: usize,
    /// Futures that wait to send.
    pub tasks_waiting_send: usize,
    /// Futures that wait to receive.
    pub tasks_waiting_receive: usize,
}

impl<T> Shared<T> {
    fn statistics(&self) -> MemoryObjectStreamStatistics {
        MemoryObjectStreamStatistics {
            current_buffer_used: self.channel.len(),
            max_buffer_size: self.channel.capacity(),
            open_send_streams: self.open_senders.get(),
            open_receive_streams: self.open_receivers.get(),
            tasks_waiting_send: self.channel.senders().len(),
            tasks_waiting_receive: self.channel.receivers().len(),
        }
    }
}

/// One clone of an end. The futures of the clone hold it too: more than one handle of it means that there are some.
struct End<T> {
    shared: Rc<Shared<T>>,
    is_open: Cell<bool>,
}

impl<T> End<T> {
    fn check(&self) -> Result<(), Closed> {
        if self.is_open.get() { Ok(()) } else { Err(Closed::new("this end of the stream")) }
    }
}

/// Why an item was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The wait was cancelled.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
    /// The buffer is full and nobody waits for an item. Only of [`send_nowait`](ObjectSender::send_nowait).
    #[error("{0}")]
    WouldBlock(#[from] WouldBlock),
    /// This sender was closed.
    #[error("{0}")]
    Closed(#[from] Closed),
    /// Nobody is left to receive.
    #[error("{0}")]
    Broken(#[from] Broken),
}

/// Why no item was received.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The wait was cancelled.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
    /// There is no item. Only of [`receive_nowait`](ObjectReceiver::receive_nowait).
    #[error("{0}")]
    WouldBlock(#[from] WouldBlock),
    /// This receiver was closed.
    #[error("{0}")]
    Closed(#[from] Closed),
    /// Every sender was closed, and everything they sent was received.
    #[error("{0}")]
    EndOfStream(#[from] EndOfStream),
}

impl MayBeCancelled for SendError {
    fn as_error(&self) -> &(dyn Error + 'static) {
        self
    }
}

impl MayBeCancelled for ReceiveError {
    fn as_error(&self) -> &(dyn Error + 'static) {
        self
    }
}

impl From<SendError> for io::Error {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Cancelled(error) => error.into(),
            SendError::WouldBlock(error) => error.into(),
            SendError::Closed(error) => error.into(),
            SendError::Broken(error) => error.into(),
        }
    }
}

impl From<ReceiveError> for io::Error {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Cancelled(error) => error.into(),
            ReceiveError::WouldBlock(error) => error.into(),
            ReceiveError::Closed(error) => error.into(),
            ReceiveError::EndOfStream(error) => error.into(),
        }
    }
}

/// The sending end of a [memory object stream](memory_object_stream). Each clone is closed for itself, at the latest when it
/// is dropped; when the last one is, the stream ends.
#[doc(alias = "MemoryObjectSendStream")]
pub struct ObjectSender<T> {
    end: Rc<End<T>>,
}

impl<T> ObjectSender<T> {
    fn of(shared: &Rc<Shared<T>>) -> Self {
        shared.open_senders.set(shared.open_senders.get() + 1);
        Self { end: Rc::new(End { shared: shared.clone(), is_open: Cell::new(true) }) }
    }

    /// Completes when `item` is in the buffer, or with a receiver.
    ///
    /// # Cancel safety
    /// *May have happened*: the item is sent, or dropped with the future.
    ///
    /// # Errors
    /// With the item: [`SendError::Cancelled`], if the wait is cancelled; [`SendError::Closed`], if this sender is closed;
    /// [`SendError::Broken`], if every receiver is.
    pub fn send(&self, item: T) -> SendItem<T> {
        SendItem { wait: Wait::new(Sending(self.end.clone()), item) }
    }

    /// Sends `item`, if somebody waits for it or there is room in the buffer.
    ///
    /// # Errors
    /// With the item: [`SendError::WouldBlock`], if that is not so; [`SendError::Closed`], if this sender is closed;
    /// [`SendError::Broken`], if every receiver is.
    #[doc(alias = "try_send")]
    pub fn send_nowait(&self, item: T) -> Result<(), Unsent<T, SendError>> {
        match Sending(self.end.clone()).attempt(item) {
            Attempt::Done => Ok(()),
            Attempt::Wait(item) => Err(Unsent::new(item, WouldBlock.into())),
            Attempt::Refused(item, error) => Err(Unsent::new(item, error)),
        }
    }

    /// Closes this clone of the sending end. What waits to be sent on it comes back with an error. Closing twice does
    /// nothing.
    #[doc(alias = "aclose")]
    pub fn close(&self) {
        if !self.end.is_open.replace(false) {
            return;
        }
        let shared = &self.end.shared;
        shared.open_senders.set(shared.open_senders.get() - 1);
        if Rc::strong_count(&self.end) > 1 {
            shared.channel.senders().wake_all();
        }
        if shared.open_senders.get() == 0 {
            shared.channel.receivers().wake_all();
        }
    }

    /// What is known about the stream.
    pub fn statistics(&self) -> MemoryObjectStreamStatistics {
        self.end.shared.statistics()
    }
}

/// Another sender of the same stream, to be closed for itself. A clone of a closed one is closed.
impl<T> Clone for ObjectSender<T> {
    fn clone(&self) -> Self {
        let clone = Self::of(&self.end.shared);
        if !self.end.is_open.get() {
            clone.close();
        }
        clone
    }
}

impl<T> Drop for ObjectSender<T> {
    fn drop(&mut self) {
        self.close();
    }
}

/// The receiving end of a [memory object stream](memory_object_stream). Each clone is closed for itself, at the latest when it
/// is dropped. Each item goes to one receiver.
#[doc(alias = "MemoryObjectReceiveStream")]
pub struct ObjectReceiver<T> {
    end: Rc<End<T>>,
}

impl<T> ObjectReceiver<T> {
    fn of(shared: &Rc<Shared<T>>) -> Self {
        shared.open_receivers.set(shared.open_receivers.get() + 1);
        Self { end: Rc::new(End { shared: shared.clone(), is_open: Cell::new(true) }) }
    }

    /// Completes with the next item.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the item goes to the next who receives.
    ///
    /// # Errors
    /// [`ReceiveError::Cancelled`], if the wait is cancelled; [`ReceiveError::Closed`], if this receiver is closed;
    /// [`ReceiveError::EndOfStream`], if every sender is and nothing is left in the buffer.
    pub fn receive(&self) -> ReceiveItem<T> {
        ReceiveItem { wait: Wait::new(Receiving(self.end.clone()), ()) }
    }

    /// Completes with the next item, or with `None` at the end of the stream.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the item goes to the next who receives.
    ///
    /// # Errors
    /// [`ReceiveError::Cancelled`], if the wait is cancelled; [`ReceiveError::Closed`], if this receiver is closed.
    #[doc(alias = "__anext__")]
    pub fn next(&self) -> NextItem<T> {
        NextItem { receive: self.receive() }
    }

    /// Takes the next item, if there is one in the buffer or with a sender who waits.
    ///
    /// # Errors
    /// [`ReceiveError::WouldBlock`], if there is none; [`ReceiveError::Closed`], if this receiver is closed;
    /// [`ReceiveError::EndOfStream`], if every sender is and nothing is left in the buffer.
    #[doc(alias = "try_recv")]
    pub fn receive_nowait(&self) -> Result<T, ReceiveError> {
        let receiving = Receiving(self.end.clone());
        match receiving.attempt(()) {
            Attempt::Done => Ok(receiving.take()),
            Attempt::Wait(()) => Err(WouldBlock.into()),
            Attempt::Refused((), error) => Err(error),
        }
    }

    /// Closes this clone of the receiving end. Who waits on it gets an error. With the last one the items in the buffer are
    /// dropped. Closing twice does nothing.
    #[doc(alias = "aclose")]
    pub fn close(&self) {
        if !self.end.is_open.replace(false) {
            return;
        }
        let shared = &self.end.shared;
        shared.open_receivers.set(shared.open_receivers.get() - 1);
        if Rc::strong_count(&self.end) > 1 {
            shared.channel.receivers().wake_all();
        }
        if shared.open_receivers.get() == 0 {
            shared.channel.senders().wake_all();
            drop(shared.channel.drain());
        }
    }

    /// What is known about the stream.
    pub fn statistics(&self) -> MemoryObjectStreamStatistics {
        self.end.shared.statistics()
    }
}

/// Another receiver of the same stream, to be closed for itself. A clone of a closed one is closed.
impl<T> Clone for ObjectReceiver<T> {
    fn clone(&self) -> Self {
        let clone = Self::of(&self.end.shared);
        if !self.end.is_open.get() {
            clone.close();
        }
        clone
    }
}

impl<T> Drop for ObjectReceiver<T> {
    fn drop(&mut self) {
        self.close();
    }
}

/// A place for an item.
struct Sending<T>(Rc<End<T>>);

impl<T> Source for Sending<T> {
    type Value = T;
    type Error = SendError;

    const WHAT: What = What(&"room in a memory stream");

    fn waiters(&self) -> &Waiters<T> {
        self.0.shared.channel.senders()
    }

    fn attempt(&self, item: T) -> Attempt<T, SendError> {
        match self.over() {
            Some(error) => Attempt::Refused(item, error),
            None => match self.0.shared.channel.send_now(item) {
                Ok(()) => Attempt::Done,
                Err(item) => Attempt::Wait(item),
            },
        }
    }

    fn over(&self) -> Option<SendError> {
        match self.0.check() {
            Err(closed) => Some(closed.into()),
            Ok(()) if self.0.shared.open_receivers.get() == 0 => Some(Broken::new("the stream").into()),
            Ok(()) => None,
        }
    }

    fn left(&self, _was_granted: bool) {}
}

/// An item, which is promised before it is taken.
struct Receiving<T>(Rc<End<T>>);

impl<T> Receiving<T> {
    fn take(&self) -> T {
        self.0.shared.channel.receive_promised()
    }
}

impl<T> Source for Receiving<T> {
    type Value = ();
    type Error = ReceiveError;

    const WHAT: What = What(&"an item of a memory stream");

    fn waiters(&self) -> &Waiters {
        self.0.shared.channel.receivers()
    }

    fn attempt(&self, (): ()) -> Attempt<(), ReceiveError> {
        if self.0.is_open.get() && self.0.shared.channel.promise() {
            return Attempt::Done;
        }
        match self.over() {
            Some(error) => Attempt::Refused((), error),
            None => Attempt::Wait(()),
        }
    }

    fn over(&self) -> Option<ReceiveError> {
        match self.0.check() {
            Err(closed) => Some(closed.into()),
            Ok(()) if self.0.shared.open_senders.get() == 0 => Some(EndOfStream.into()),
            Ok(()) => None,
        }
    }

    fn left(&self, was_granted: bool) {
        if was_granted {
            self.0.shared.channel.withdraw_promise();
        }
    }
}

/// The future of [`ObjectSender::send`].
#[must_use = "futures do nothing unless awaited"]
pub struct SendItem<T> {
    wait: Wait<Sending<T>>,
}

impl<T> Future for SendItem<T> {
    type Output = Result<(), Unsent<T, SendError>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.wait).poll(cx).map_err(|(item, error)| Unsent::new(item, error))
    }
}

/// The future of [`ObjectReceiver::receive`].
#[must_use = "futures do nothing unless awaited"]
pub struct ReceiveItem<T> {
    wait: Wait<Receiving<T>>,
}

impl<T> Future for ReceiveItem<T> {
    type Output = Result<T, ReceiveError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let promised = Pin::new(&mut self.wait).poll(cx);
        promised.map(|promised| match promised {
            Ok(()) => Ok(self.wait.source().take()),
            Err(((), error)) => Err(error),
        })
    }
}

/// The future of [`ObjectReceiver::next`].
#[must_use = "futures do nothing unless awaited"]
pub struct NextItem<T> {
    receive: ReceiveItem<T>,
}

impl<T> Future for NextItem<T> {
    type Output = Result<Option<T>, ReceiveError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let received = Pin::new(&mut self.receive).poll(cx);
        received.map(|received| match received {
            Ok(item) => Ok(Some(item)),
            Err(ReceiveError::EndOfStream(_)) => Ok(None),
            Err(error) => Err(error),
        })
    }
}

macro_rules! debug {
    ($($name:ident: $of:ident => $what:expr;)*) => {
        $(impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let $of = self;
                f.debug_tuple(stringify!($name)).field(&$what).finish()
            }
        })*
    };
}
debug! {
    ObjectSender: this => this.statistics();
    ObjectReceiver: this => this.statistics();
    SendItem: this => this.wait;
    ReceiveItem: this => this.wait;
    NextItem: this => this.receive;
}
