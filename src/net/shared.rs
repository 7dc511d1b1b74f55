//! What a stream socket owns: the bytes that came, its armed receive, and the queue of what is to be sent.
//!
//! Futures only wait here (DESIGN idea 2): dropping one loses nothing, since bytes stay in `inbound` and a send that
//! has begun goes on.

use std::cell::{Cell, OnceCell};
use std::io;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use crate::buf::{Chunk, IoBufMut, Starved};
use crate::driver::{Aftermath, Driver, Key, control};
use crate::error::{Closed, MayBeCancelled};
use crate::net::fds::Expected;
use crate::net::inbound::Inbound;
use crate::net::outbound::Outbound;
use crate::op::Descriptor;
use crate::op::net::{Medium, ReceiveMulti, ReceiveTarget, SHOTS_OVER, Short, receive_now};
use crate::runtime::budget;
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check};

pub(super) const BYTES: What = What(&"bytes from a peer");

/// Received bytes that a connection may hold before its receive is stopped. A mark, not a limit: what the kernel has
/// received already in the same turn (up to some 33 buffers) still comes.
const INBOUND_MARK: usize = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    /// Nothing is armed.
    Idle,
    /// The receive of this key is armed.
    Armed(Key),
    /// Not armed for want of buffers; the pool feeds this socket in its turn.
    Starving,
    /// A receive into the caller's buffer is in flight, with this key once it was submitted.
    Single(Option<Key>),
}

/// On the epoll driver: whether there may be something to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    No,
    /// There is something; a receive that brings less than fits has taken all.
    Bytes,
    /// The last receive brought as much as fits.
    More,
    /// There is something; only a receive that finds nothing has taken all.
    UntilEmpty,
    /// There was nothing. Told of it again, the driver asks in another way.
    InVain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// The peer sends no more.
    Eof,
    /// This errno.
    Failed(i32),
}

pub(crate) struct Shared {
    pub(crate) descriptor: Descriptor,
    this: Weak<Self>,
    pub(crate) inbound: Inbound,
    pub(super) receiving: Cell<Receiving>,
    told_of_bytes: Cell<Told>,
    end: Cell<End>,
    /// Somebody received the error that is the end.
    told: Cell<bool>,
    pub(crate) receiver: Waiter,
    /// A future waits, and others are told that it is busy.
    pub(crate) receive_claimed: Cell<bool>,
    pub(crate) outbound: Outbound,
    /// The pool has it in its queue of starved sockets.
    is_in_starved_queue: Cell<bool>,
    short: Short,
    pub(crate) medium: Cell<Medium>,
    /// Nobody has opened the other end of a named pipe yet.
    pub(super) awaits_peer: Cell<bool>,
    /// Descriptors may come with bytes, and with which ones: made when the first are expected.
    pub(crate) expected: OnceCell<Box<Expected>>,
    /// Streams and halves that use it.
    handles: Cell<u32>,
    pub(crate) closed: Cell<bool>,
    /// Nothing more is received, though the stream is open.
    receive_closed: Cell<bool>,
    /// The last operation closes the descriptor.
    abandoned: Cell<bool>,
}

impl Shared {
    /// Of a socket.
    pub(crate) fn new(descriptor: Descriptor, short: Short) -> Rc<Self> {
        Self::with_medium(descriptor, short, Medium::Socket, false)
    }

    /// Of anything that bytes go through. `awaits_peer`: of a named pipe that nobody may have opened at the other end.
    pub(crate) fn with_medium(
        descriptor: Descriptor,
        short: Short,
        medium: Medium,
        awaits_peer: bool,
    ) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            descriptor,
            this: this.clone(),
            inbound: Inbound::default(),
            receiving: Cell::new(Receiving::Idle),
            told_of_bytes: Cell::new(Told::No),
            end: Cell::new(End::Open),
            told: Cell::new(false),
            receiver: Waiter::new(),
            receive_claimed: Cell::new(false),
            outbound: Outbound::default(),
            is_in_starved_queue: Cell::new(false),
            short,
            medium: Cell::new(medium),
            awaits_peer: Cell::new(awaits_peer),
            expected: OnceCell::new(),
            handles: Cell::new(1),
            closed: Cell::new(false),
            receive_closed: Cell::new(false),
            abandoned: Cell::new(false),
        })
    }

    pub(crate) fn rc(&self) -> Option<Rc<Self>> {
        self.this.upgrade()
    }

    #[inline]
    pub(crate) fn driver(&self) -> &Rc<Driver> {
        self.descriptor.driver()
    }

    pub(crate) fn add_handle(&self) {
        self.handles.set(self.handles.get() + 1);
    }

    /// The last handle's end closes the socket: operations are cancelled, and the last of them takes it along.
    pub(crate) fn drop_handle(&self) {
        self.handles.set(self.handles.get() - 1);
        if self.handles.get() == 0 {
            self.abandon();
        }
    }

    /// Ends everything that is on its way. What is not over then closes the descriptor when it is.
    pub(crate) fn abandon(&self) {
        self.closed.set(true);
        self.abandoned.set(true);
        self.stop_receiving();
        if let Some(key) = self.outbound.in_flight.get() {
            self.driver().cancel(key);
        }
        self.outbound.clear();
        drop(self.take_inbound());
        self.close_if_over();
    }

    /// Closes the descriptor of an abandoned stream, once no operation uses it (C13).
    #[inline]
    pub(crate) fn close_if_over(&self) {
        let receives = matches!(self.receiving.get(), Receiving::Armed(_) | Receiving::Single(_));
        if self.abandoned.get() && !receives && !self.outbound.is_busy() {
            self.descriptor.release();
        }
    }

    #[inline]
    pub(crate) fn check_open(&self) -> io::Result<()> {
        if self.closed.get() { Err(Closed::new("the stream").into()) } else { Ok(()) }
    }

    pub(crate) fn stop_receiving(&self) {
        if let Receiving::Armed(key) | Receiving::Single(Some(key)) = self.receiving.get() {
            self.driver().cancel(key);
        }
    }

    /// From now on nothing is received; who waits hears of it.
    pub(crate) fn close_receiving(&self) {
        self.receive_closed.set(true);
        self.stop_receiving();
        drop(self.take_inbound());
        self.receiver.wake();
    }

    #[inline]
    pub(crate) fn check_receive(&self) -> io::Result<()> {
        self.check_open()?;
        if self.receive_closed.get() { Err(Closed::new("the receiving side").into()) } else { Ok(()) }
    }

    fn arm(&self, spare: bool) {
        let Some(this) = self.rc() else { return };
        debug_assert!(!matches!(self.receiving.get(), Receiving::Armed(_) | Receiving::Single(_)), "C9");
        if let Some(key) = self.driver().submit_detached(ReceiveMulti::new(this, spare)) {
            self.receiving.set(Receiving::Armed(key));
        }
    }

    /// What the result of a receive says about the stream: bytes, its end, or a failure.
    pub(super) fn note_end(&self, result: i32) {
        match result {
            // A ring's send that was half done when the connection was reset has taken the error, and does not tell.
            0 if self.outbound.may_know_more() && self.was_cut_off() => {
                self.end.set(End::Failed(self.outbound.reason()));
            }
            0 => self.end.set(End::Eof),
            1.. => {}
            // Stopped by us; on a closed loop that is the end.
            _ if -result == libc::ECANCELED && !self.driver().is_closed() => {}
            _ => self.end.set(End::Failed(-result)),
        }
    }

    /// Whether the connection is gone though the peer had not ended it, and nobody was told so.
    pub(crate) fn was_cut_off(&self) -> bool {
        match self.end.get() {
            // The kernel tells of a reset once, here a receive that nobody waited for.
            End::Failed(errno) => errno == libc::ECONNRESET && !self.told.get(),
            End::Open | End::Eof => self.descriptor.with(|fd| Ok(control::was_cut_off(fd))).unwrap_or(false),
        }
    }

    /// How the stream ended, if it did and all bytes were taken.
    pub(crate) fn ended(&self) -> Option<io::Result<()>> {
        match self.end.get() {
            End::Open => None,
            // The kernel reports a reset once. If a send took it, the receive sees an end that looks clean.
            End::Eof if self.outbound.was_reset() => {
                Some(Err(io::Error::from_raw_os_error(libc::ECONNRESET)))
            }
            End::Eof => Some(Ok(())),
            End::Failed(errno) => {
                self.told.set(true);
                // Want of memory says nothing about the connection: who asks again tries again.
                if errno == libc::ENOMEM {
                    self.end.set(End::Open);
                }
                Some(Err(io::Error::from_raw_os_error(errno)))
            }
        }
    }

    pub(crate) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        if let Err(cancelled) = ready!(check(cx)) {
            self.receiver.clear();
            return Poll::Ready(Err(cancelled.into()));
        }
        self.check_receive()?;
        if self.inbound.bytes() > 0 {
            ready!(budget::spend(cx));
            return Poll::Ready(Ok(self.pop_inbound()));
        }
        if let Some(end) = self.ended() {
            return Poll::Ready(end.map(|()| None));
        }
        // (The bytes of a loop that this process was forked from are its own.)
        if matches!(self.told_of_bytes.get(), Told::Bytes | Told::More | Told::UntilEmpty)
            && !self.driver().is_closed()
        {
            ready!(budget::spend(cx));
            if let Some(received) = self.receive_now() {
                return Poll::Ready(received);
            }
        }
        self.receiver.register_for(cx, BYTES);
        match self.receiving.get() {
            Receiving::Idle => self.arm(false),
            Receiving::Starving => self.arm(true),
            Receiving::Armed(_) | Receiving::Single(_) => {}
        }
        Poll::Pending
    }

    /// Takes what is there, on the epoll driver; `None` if nothing is.
    fn receive_now(&self) -> Option<io::Result<Option<Chunk>>> {
        match receive_now(self) {
            Ok((chunk, is_short)) => {
                if self.told_of_bytes.get() != Told::UntilEmpty {
                    self.told_of_bytes.set(if is_short { Told::No } else { Told::More });
                }
                Some(Ok(Some(chunk)))
            }
            Err(result) if -result == libc::EAGAIN => {
                let was_wrong = self.told_of_bytes.get() != Told::More;
                self.told_of_bytes.set(if was_wrong { Told::InVain } else { Told::No });
                None
            }
            Err(result) => {
                self.note_end(result);
                self.stop_receiving();
                self.ended().map(|end| end.map(|()| None))
            }
        }
    }

    /// Whether the last receive may have left something, on the epoll driver, which then is not received before it is asked for.
    pub(crate) fn was_told_of_more(&self) -> bool {
        self.told_of_bytes.get() == Told::More
    }

    /// Nobody waits for bytes any more.
    pub(crate) fn forget_receiver(&self) {
        self.receive_claimed.set(false);
        // Whoever closes the stream waits there too.
        if self.closed.get() {
            self.receiver.wake()
        } else {
            self.receiver.clear()
        }
        // What comes from now on may bring descriptors to somebody who wants them.
        if self.wants_one() {
            self.stop_receiving();
        }
    }

    /// Takes bytes that came already. Descriptors that came with them are closed.
    #[inline]
    fn pop_inbound(&self) -> Option<Chunk> {
        if let Some(expected) = self.expected.get() {
            expected.close_unfetched();
        }
        self.inbound.pop()
    }

    /// Takes all bytes that came already.
    pub(crate) fn take_inbound(&self) -> Vec<Chunk> {
        std::iter::from_fn(|| self.pop_inbound()).collect()
    }

    /// Copies bytes that came already, as many as fit.
    pub(crate) fn copy_inbound<B: IoBufMut>(&self, buf: &mut B) -> usize {
        let mut copied = 0;
        while copied < buf.capacity() {
            let Some(mut chunk) = self.pop_inbound() else { break };
            let count = chunk.len().min(buf.capacity() - copied);
            crate::buf::write(buf, copied, &chunk[..count]);
            copied += count;
            if count < chunk.len() {
                chunk.advance(count);
                self.inbound.push_first(chunk);
            }
        }
        copied
    }

    /// Sends what is queued, then closes.
    pub(crate) async fn close(&self) -> io::Result<()> {
        let sent = match self.turn().await {
            Ok(turn) => {
                drop(turn);
                Ok(())
            }
            // A send is on its way still, and the descriptor in use.
            Err(error) if error.is_cancelled() => return Err(error),
            Err(error) => Err(error),
        };
        std::future::poll_fn(|cx| self.poll_idle(cx)).await;
        self.closed.set(true);
        let closed = self.descriptor.close().await;
        sent.and(closed)
    }

    /// Waits until nothing is armed, or there are bytes already.
    pub(crate) fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(check(cx))?;
        self.check_receive()?;
        if self.inbound.bytes() > 0 {
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
        self.receiver.register(cx);
        Poll::Pending
    }

    /// Waits until no receive is in flight, whatever came.
    pub(crate) fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.receiving.get() {
            Receiving::Idle | Receiving::Starving => return Poll::Ready(()),
            Receiving::Armed(_) => self.stop_receiving(),
            Receiving::Single(_) => {}
        }
        self.receiver.register(cx);
        Poll::Pending
    }

    /// Why sending is over for good, if it is. Whoever waits to receive is woken when that happens.
    pub(crate) fn send_error(&self) -> Option<io::Error> {
        self.outbound.errno().map(io::Error::from_raw_os_error)
    }

    /// From now on the task of `cx` is woken as one that receives, without asking for bytes.
    pub(crate) fn watch(&self, cx: &Context<'_>) {
        self.receiver.register_for(cx, BYTES);
    }

    fn has_enough(&self) -> bool {
        self.closed.get() || self.inbound.bytes() >= INBOUND_MARK
    }

    #[inline]
    pub(crate) fn wake_receiver(&self, after: &mut Aftermath) {
        if let Some(waker) = self.receiver.take() {
            after.wake_one(waker);
        }
    }
}

/// Ends the claim of a receiving future, however it ends.
pub(crate) struct Claim<'a>(pub(crate) &'a Shared);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.forget_receiver();
    }
}

impl ReceiveTarget for Shared {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    #[inline]
    fn told(&self, until_empty: bool, after: &mut Aftermath) {
        self.told_of_bytes.set(if until_empty { Told::UntilEmpty } else { Told::Bytes });
        self.wake_receiver(after);
    }

    #[inline]
    fn was_told(&self) -> bool {
        self.told_of_bytes.get() != Told::No
    }

    #[inline]
    fn received(&self, chunk: Chunk, after: &mut Aftermath) -> bool {
        if self.check_receive().is_err() {
            return true; // nobody is left to take it
        }
        self.inbound.push_last(chunk);
        self.wake_receiver(after);
        self.has_enough()
    }

    fn receive_over(&self, result: i32, after: &mut Aftermath) {
        self.receiving.set(Receiving::Idle);
        self.told_of_bytes.set(Told::No);
        match result {
            SHOTS_OVER => {}
            // Not a failure: the pool grows if it may; else this socket waits for its turn, and goes on with a small
            // buffer of its own when somebody asks for bytes.
            _ if -result == libc::ENOBUFS => {
                if !self.driver().pool().grow(1) {
                    self.receiving.set(Receiving::Starving);
                    if !self.is_in_starved_queue.replace(true) {
                        self.driver().pool().starve(self.this.clone());
                    }
                }
            }
            _ => self.note_end(result),
        }
        // Whoever waits asks again, which arms again.
        self.wake_receiver(after);
        self.close_if_over();
    }

    fn unclaimed(&self, bytes: &[u8], after: &mut Aftermath) {
        if self.check_receive().is_ok() {
            self.inbound.push_first(Chunk::heap(self.driver().pool().clone(), bytes.to_vec()));
            self.wake_receiver(after);
        }
    }

    fn begin_single(&self) -> bool {
        let is_free = matches!(self.receiving.get(), Receiving::Idle | Receiving::Starving);
        if is_free {
            self.receiving.set(Receiving::Single(None));
        }
        is_free
    }

    fn receive_into_over(&self, result: i32, after: &mut Aftermath) {
        self.receiving.set(Receiving::Idle);
        self.note_end(result);
        self.wake_receiver(after);
        self.close_if_over();
    }

    fn short(&self) -> Short {
        self.short
    }

    fn wants_one(&self) -> bool {
        self.expected.get().is_some()
    }

    fn medium(&self) -> Medium {
        self.medium.get()
    }

    fn awaits_peer(&self) -> bool {
        self.awaits_peer.get()
    }

    fn peer_came(&self) {
        self.awaits_peer.set(false);
    }
}

impl Starved for Shared {
    fn feed(self: Rc<Self>) -> bool {
        self.is_in_starved_queue.set(false);
        let hungry = self.receiving.get() == Receiving::Starving && !self.has_enough();
        if hungry {
            self.arm(false);
        }
        hungry
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("fd", &self.descriptor.number())
            .field("received", &self.inbound.bytes())
            .field("queued", &self.outbound.bytes())
            .finish_non_exhaustive()
    }
}
