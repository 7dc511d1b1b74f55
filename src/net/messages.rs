//! What a socket of messages owns: the messages that came, its armed receive, and its sends.
//!
//! The one core of UDP and UNIX datagrams, of SEQPACKET, and of sockets whose kind only their user knows. Futures only
//! wait here (DESIGN idea 2): a message that the kernel delivered stays in the queue whoever is dropped.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use socket2::{Domain, SockAddrStorage, Type};

use crate::buf::{IoBufMut, Starved};
use crate::driver::{Aftermath, Driver, Key, Op, control};
use crate::error::{Busy, Closed, Failed};
use crate::net::errors::Errors;
use crate::net::sends::Sends;
use crate::op::Descriptor;
use crate::op::net::{
    Arrival, Incoming, IncomingTarget, MessageTarget, ReceiveMessageInto, ReceiveMessages, SHOTS_OVER,
};
use crate::runtime::budget;
use crate::runtime::here;
use crate::runtime::scope::What;
use crate::runtime::wait::{Ask, Waiter, check, outcome};
use crate::sys::message::{Layout, control_len};

const MESSAGE: What = What(&"a message from a peer");

/// Messages that a socket may hold before its receive is stopped; from then on they stay in the kernel, which drops what
/// finds no room there (UDP) or lets the sender wait (UNIX). A mark, not a limit: what the kernel has delivered already in
/// the same turn (up to some 33) still comes.
const QUEUE_MARK: usize = 128;
/// As many bytes count as the mark, however few messages they are.
const BYTES_MARK: usize = 1 << 20;

/// The room for an address: of the internet, or of a UNIX socket.
const INET_NAME: usize = 32;
const UNIX_NAME: usize = 112;
/// The room for the control messages that can be asked for on a UDP socket.
const INET_CONTROL: usize = 256;

/// What kind of socket it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// UDP: messages may get lost, and overtake each other.
    Inet,
    /// UNIX datagrams: in order, none is lost.
    Unix,
    /// UNIX messages of a connection, which ends.
    Seqpacket,
    /// No messages, just bytes.
    Stream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiving {
    Idle,
    Armed(Key),
    /// Not armed for want of buffers; the pool feeds this socket in its turn.
    Starving,
    /// A receive into the caller's buffer is in flight, with this key once it was submitted.
    Single(Option<Key>),
}

pub(crate) struct Messages {
    pub(crate) descriptor: Descriptor,
    this: Weak<Self>,
    kind: Kind,
    layout: Cell<Layout>,
    queue: RefCell<VecDeque<Arrival>>,
    bytes: Cell<usize>,
    receiving: Cell<Receiving>,
    /// What the kernel said beside the messages, such as that nobody listens there (ICMP); told once.
    error: Cell<Option<i32>>,
    ended: Cell<bool>,
    pub(crate) receiver: Waiter,
    /// A future waits, and others are told that it is busy.
    pub(crate) receive_claimed: Cell<bool>,
    /// Reused by receives into the caller's buffers.
    incoming: Cell<Option<Box<Incoming>>>,
    pub(crate) sends: Sends,
    /// Made when somebody wants to know errors.
    pub(crate) errors: OnceCell<Box<Errors>>,
    is_in_starved_queue: Cell<bool>,
    pub(crate) closed: Cell<bool>,
    /// The last operation closes the descriptor.
    pub(crate) abandoned: Cell<bool>,
    /// Whoever closes waits for the last operation.
    pub(crate) closer: Waiter,
    /// Its user's handle is gone, but it is closed in order.
    pub(crate) closing: Cell<bool>,
}

impl Messages {
    pub(crate) fn new(descriptor: Descriptor, kind: Kind) -> Rc<Self> {
        let layout = match kind {
            Kind::Inet => Layout { name: INET_NAME, control: INET_CONTROL },
            Kind::Unix => Layout { name: UNIX_NAME, control: 0 },
            Kind::Seqpacket | Kind::Stream => Layout { name: 0, control: 0 },
        };
        Self::with_layout(descriptor, kind, layout)
    }

    /// A socket of any family and kind.
    pub(crate) fn of_any(descriptor: Descriptor, domain: Domain, kind: Type) -> Rc<Self> {
        let kind = match kind {
            Type::STREAM => Kind::Stream,
            Type::SEQPACKET => Kind::Seqpacket,
            _ if domain == Domain::UNIX => Kind::Unix,
            _ => Kind::Inet,
        };
        let name = if kind == Kind::Stream { 0 } else { size_of::<SockAddrStorage>() };
        Self::with_layout(descriptor, kind, Layout { name, control: 0 })
    }

    fn with_layout(descriptor: Descriptor, kind: Kind, layout: Layout) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            descriptor,
            this: this.clone(),
            kind,
            layout: Cell::new(layout),
            queue: RefCell::default(),
            bytes: Cell::new(0),
            receiving: Cell::new(Receiving::Idle),
            error: Cell::new(None),
            ended: Cell::new(false),
            receiver: Waiter::new(),
            receive_claimed: Cell::new(false),
            incoming: Cell::new(None),
            sends: Sends::new(kind != Kind::Inet),
            errors: OnceCell::new(),
            is_in_starved_queue: Cell::new(false),
            closed: Cell::new(false),
            abandoned: Cell::new(false),
            closer: Waiter::new(),
            closing: Cell::new(false),
        })
    }

    pub(crate) fn rc(&self) -> Option<Rc<Self>> {
        self.this.upgrade()
    }

    #[inline]
    pub(crate) fn driver(&self) -> &Rc<Driver> {
        self.descriptor.driver()
    }

    pub(crate) fn is_stream_socket(&self) -> bool {
        self.kind == Kind::Stream
    }

    pub(crate) fn is_unix_datagram_socket(&self) -> bool {
        self.kind == Kind::Unix
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.borrow().len()
    }

    /// How many descriptors a message may bring from now on; those that find no room the kernel closes.
    pub(crate) fn set_fds_max(&self, count: usize) {
        let more = |arrival: &mut Arrival| arrival.fds.split_off(count.min(arrival.fds.len()));
        self.queue.borrow_mut().iter_mut().for_each(|arrival| drop(more(arrival)));
        let control = if count == 0 { 0 } else { control_len(4 * count) };
        self.layout.set(Layout { control, ..self.layout.get() });
        self.incoming.set(None);
        // It is armed again with the new layout.
        self.stop_receiving();
    }

    #[inline]
    pub(crate) fn check_open(&self) -> io::Result<()> {
        if self.closed.get() { Err(Closed::new("the socket").into()) } else { Ok(()) }
    }

    /// Drops what came.
    pub(crate) fn clear(&self) {
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        self.bytes.set(0);
        drop(queue);
    }

    /// Whether a receive is in flight.
    pub(crate) fn receives(&self) -> bool {
        matches!(self.receiving.get(), Receiving::Armed(_) | Receiving::Single(_))
    }

    pub(crate) fn stop_receiving(&self) {
        if let Receiving::Armed(key) | Receiving::Single(Some(key)) = self.receiving.get() {
            self.driver().cancel(key);
        }
    }

    fn arm(&self, spare: bool) {
        let Some(this) = self.rc() else { return };
        debug_assert!(!matches!(self.receiving.get(), Receiving::Armed(_) | Receiving::Single(_)), "C9");
        let receive = ReceiveMessages::new(this, self.layout.get(), spare);
        if let Some(key) = self.driver().submit_detached(receive) {
            self.receiving.set(Receiving::Armed(key));
        }
    }

    /// Takes the oldest message.
    fn pop(&self) -> Option<Arrival> {
        let arrival = self.queue.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get() - arrival.data.len());
        Some(arrival)
    }

    fn push(&self, arrival: Arrival, first: bool) {
        self.bytes.set(self.bytes.get() + arrival.data.len());
        let mut queue = self.queue.borrow_mut();
        if first { queue.push_front(arrival) } else { queue.push_back(arrival) }
    }

    /// What is to be told when there is no message: an error, once, or the end.
    fn ended(&self) -> Option<io::Result<()>> {
        if let Some(errno) = self.error.take() {
            return Some(Err(io::Error::from_raw_os_error(errno)));
        }
        self.ended.get().then_some(Ok(()))
    }

    /// The next message; `None` at the end of a connection.
    pub(crate) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Arrival>>> {
        if let Err(cancelled) = ready!(check(cx)) {
            self.receiver.clear();
            return Poll::Ready(Err(cancelled.into()));
        }
        self.check_open()?;
        if self.queued() > 0 {
            ready!(budget::spend(cx));
            return Poll::Ready(Ok(self.pop()));
        }
        if let Some(end) = self.ended() {
            return Poll::Ready(end.map(|()| None));
        }
        self.receiver.register_for(cx, MESSAGE);
        match self.receiving.get() {
            Receiving::Idle => self.arm(false),
            Receiving::Starving => self.arm(true),
            Receiving::Armed(_) | Receiving::Single(_) => {}
        }
        Poll::Pending
    }

    /// As `poll_receive`, for a future: others are told that the socket is busy while it waits.
    pub(crate) fn poll_claimed(
        &self,
        cx: &mut Context<'_>,
        is_mine: bool,
    ) -> Poll<io::Result<Option<Arrival>>> {
        if !is_mine && self.receive_claimed.get() {
            return Poll::Ready(Err(Busy::new("receiving from").into()));
        }
        let polled = self.poll_receive(cx);
        self.receive_claimed.set(polled.is_pending());
        polled
    }

    /// The next message, for one task; `None` at the end of a connection.
    pub(crate) fn next(&self) -> Next<'_> {
        Next { messages: self, waiting: false }
    }

    /// One of those that came already.
    pub(crate) fn try_receive(&self) -> Option<Arrival> {
        self.pop()
    }

    /// Nobody waits for messages any more.
    pub(crate) fn forget_receiver(&self) {
        self.receive_claimed.set(false);
        self.receiver.clear();
    }

    /// Waits until nothing is armed, or there are messages already.
    fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(check(cx))?;
        self.check_open()?;
        if self.queued() > 0 {
            return budget::spend(cx).map(Ok);
        }
        match self.receiving.get() {
            Receiving::Idle | Receiving::Starving => {
                self.receiving.set(Receiving::Idle);
                return Poll::Ready(Ok(()));
            }
            Receiving::Armed(_) => self.stop_receiving(),
            Receiving::Single(_) => {}
        }
        self.receiver.register_for(cx, MESSAGE);
        Poll::Pending
    }

    /// Receives one message into the caller's buffer. `look` gets what came with it; `None` at the end.
    pub(crate) async fn receive_into<B: IoBufMut, R>(
        self: &Rc<Self>,
        mut buf: B,
        look: impl Fn(Came<'_>) -> io::Result<R>,
    ) -> Result<(usize, R, B), Failed<B>> {
        if self.receive_claimed.replace(true) {
            return Err(Failed::new(Busy::new("receiving from").into(), buf, 0));
        }
        let _claim = Claim(self);
        // What the armed receive brought, or brings while it is stopped, comes first.
        if let Err(error) = poll_fn(|cx| self.poll_stopped(cx)).await {
            return Err(Failed::new(error, buf, 0));
        }
        if let Some(mut arrival) = self.pop() {
            let count = arrival.data.len().min(buf.capacity());
            crate::buf::write(&mut buf, 0, &arrival.data[..count]);
            let looked = look(Came::of(&arrival));
            if self.is_stream_socket() && count < arrival.data.len() {
                arrival.data.advance(count);
                self.push(arrival, true);
            }
            return answer(count, looked, buf);
        }
        match self.ended() {
            Some(Ok(())) => return answer(0, look(Came::END), buf),
            Some(Err(error)) => return Err(Failed::new(error, buf, 0)),
            None => {}
        }
        let layout = self.layout.get();
        let kept = self.incoming.take().filter(|incoming| incoming.layout() == layout);
        let mut incoming = kept.unwrap_or_else(|| Box::new(Incoming::new(layout)));
        let result = loop {
            let (result, op) = self.single(ReceiveMessageInto::new(self.clone(), incoming, buf)).await;
            (incoming, buf) = op.into_parts();
            if result >= 0 || !self.is_told_elsewhere(-result) {
                break result;
            }
        };
        let is_stopped = result == -libc::ECANCELED && !here::is_cancelled();
        let received =
            if is_stopped { self.check_open().and_then(|()| outcome(result)) } else { outcome(result) };
        let answered = match received {
            Ok(count) => {
                let count = count as usize;
                // Without room nothing comes either.
                if count == 0 && buf.capacity() > 0 && incoming.sent() == 0 && self.is_end() {
                    self.ended.set(true);
                }
                answer(count, look(Came::with(&mut incoming)), buf)
            }
            Err(error) => Err(Failed::new(error, buf, 0)),
        };
        self.incoming.set(Some(incoming));
        answered
    }

    /// Performs the one receive into a buffer of the caller.
    async fn single<O: Op>(&self, op: O) -> (i32, O) {
        /// Gives the receiving side back, if the receive was never submitted too. (Dropped in flight, it does so itself.)
        struct Begun<'a>(&'a Messages);
        impl Drop for Begun<'_> {
            fn drop(&mut self) {
                if self.0.receiving.get() == Receiving::Single(None) {
                    self.0.receiving.set(Receiving::Idle);
                }
            }
        }
        self.receiving.set(Receiving::Single(None));
        let _begun = Begun(self);
        let mut ask = Ask::new(self.driver(), op, MESSAGE);
        let answer = poll_fn(|cx| {
            let polled = Pin::new(&mut ask).poll(cx);
            if let Some(key) = ask.key() {
                self.receiving.set(Receiving::Single(Some(key)));
            }
            polled
        })
        .await;
        self.receiving.set(Receiving::Idle);
        // Whoever closes waits for this.
        let mut after = Aftermath::default();
        self.wake_closer(&mut after);
        after.run();
        answer
    }

    /// Whether a receive that brought nothing says that nothing will come. A connection may carry empty messages; behind
    /// the end of the peer only empty ones can be left, and these are the end.
    fn is_end(&self) -> bool {
        match self.kind {
            Kind::Inet | Kind::Unix => false,
            Kind::Stream => true,
            Kind::Seqpacket => self.descriptor.with(|fd| Ok(control::is_at_end(fd))).unwrap_or(true),
        }
    }

    fn has_enough(&self) -> bool {
        self.closed.get() || self.queued() >= QUEUE_MARK || self.bytes.get() >= BYTES_MARK
    }

    fn wake_receiver(&self, after: &mut Aftermath) {
        if let Some(waker) = self.receiver.take() {
            after.wake_one(waker);
        }
        self.wake_closer(after);
    }
}

fn answer<B, R>(count: usize, looked: io::Result<R>, buf: B) -> Result<(usize, R, B), Failed<B>> {
    match looked {
        Ok(looked) => Ok((count, looked, buf)),
        Err(error) => Err(Failed::new(error, buf, count)),
    }
}

/// Waits for the next message.
pub(crate) struct Next<'a> {
    messages: &'a Messages,
    waiting: bool,
}

impl Future for Next<'_> {
    type Output = io::Result<Option<Arrival>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.messages.poll_claimed(cx, self.waiting);
        self.waiting = polled.is_pending();
        polled
    }
}

impl Drop for Next<'_> {
    fn drop(&mut self) {
        if self.waiting {
            self.messages.forget_receiver();
        }
    }
}

/// What came with a message into the caller's buffer.
pub(crate) struct Came<'a> {
    pub(crate) name: &'a [u8],
    /// How long the message was when it was sent.
    pub(crate) sent: usize,
}

impl<'a> Came<'a> {
    const END: Came<'static> = Came { name: &[], sent: 0 };

    fn of(arrival: &'a Arrival) -> Self {
        Self { name: arrival.name(), sent: arrival.sent() }
    }

    /// Descriptors are closed: whoever wants them receives whole messages.
    fn with(incoming: &'a mut Incoming) -> Self {
        drop(incoming.take_fds());
        Self { name: incoming.name(), sent: incoming.sent() }
    }
}

/// Ends the claim of a receiving future, however it ends.
pub(crate) struct Claim<'a>(pub(crate) &'a Messages);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.forget_receiver();
    }
}

impl MessageTarget for Messages {
    fn arrived(&self, arrival: Arrival, after: &mut Aftermath) -> bool {
        if self.closed.get() {
            return true; // nobody is left to take it
        }
        if arrival.data.is_empty() && arrival.sent() == 0 && arrival.fds.is_empty() && self.is_end() {
            self.ended.set(true);
        } else {
            self.push(arrival, false);
        }
        self.wake_receiver(after);
        self.ended.get() || self.has_enough()
    }

    fn messages_over(&self, result: i32, after: &mut Aftermath) {
        self.receiving.set(Receiving::Idle);
        match -result {
            _ if result == SHOTS_OVER => {}
            // Stopped by us; on a closed loop that is the end.
            libc::ECANCELED if !self.driver().is_closed() => {}
            // Not a failure: the pool grows if it may; else this socket waits for its turn, and goes on with a buffer of
            // its own when somebody asks for messages.
            libc::ENOBUFS => {
                if !self.driver().message_pool().grow(1) {
                    self.receiving.set(Receiving::Starving);
                    if !self.is_in_starved_queue.replace(true) {
                        self.driver().message_pool().starve(self.this.clone());
                    }
                }
            }
            errno if self.is_told_elsewhere(errno) => {}
            errno => self.error.set(Some(errno)),
        }
        // Whoever waits asks again, which arms again.
        self.wake_receiver(after);
    }
}

impl IncomingTarget for Messages {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn unfetched(&self, arrival: Arrival, after: &mut Aftermath) {
        if self.closed.get() {
            return;
        }
        if arrival.data.is_empty() && arrival.sent() == 0 && arrival.fds.is_empty() && self.is_end() {
            self.ended.set(true);
        } else {
            self.push(arrival, true);
        }
        self.wake_receiver(after);
    }

    fn incoming_over(&self, result: i32, after: &mut Aftermath) {
        self.receiving.set(Receiving::Idle);
        let is_stopped = -result == libc::ECANCELED && !self.driver().is_closed();
        if result < 0 && !is_stopped && !self.is_told_elsewhere(-result) {
            self.error.set(Some(-result));
        }
        self.wake_receiver(after);
    }

    fn is_stream(&self) -> bool {
        self.is_stream_socket()
    }
}

impl Starved for Messages {
    fn feed(self: Rc<Self>) -> bool {
        self.is_in_starved_queue.set(false);
        let hungry = self.receiving.get() == Receiving::Starving && !self.has_enough();
        if hungry {
            self.arm(false);
        }
        hungry
    }
}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("fd", &self.descriptor.number())
            .field("received", &self.queued())
            .field("queued", &self.sends.bytes())
            .finish_non_exhaustive()
    }
}
