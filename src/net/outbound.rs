//! The sending side of a stream: one send in flight, everything else in order behind it (C9).
//!
//! Who wants to send needs the *turn*. `send` takes it, or queues for it; `write` queues bytes, which go out together,
//! vectored, when the turn comes to them.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::driver::{Aftermath, Key, Op};
use crate::error::{Failed, MayBeCancelled};
use crate::net::shared::Shared;
use crate::op::Descriptor;
use crate::op::net::{
    Batch, Medium, ReceiveTarget, Record, SendBatch, SendOp, SendRecord, SendTarget, passes_turn,
};
use crate::runtime::here;
use crate::runtime::scope::What;
use crate::runtime::wait::{Ask, Waiter, check, outcome};
use crate::sys::kernel_tls;

const ROOM: What = What(&"a peer to take what is sent");

enum Item {
    Bytes(Bytes),
    Record(Box<Record>),
    Turn(Rc<Ticket>),
}

/// Somebody who waits for the turn.
#[derive(Default)]
struct Ticket {
    granted: Cell<bool>,
    /// Whoever waited has it.
    taken: Cell<bool>,
    waiter: Waiter,
}

#[derive(Default)]
pub(crate) struct Outbound {
    /// Somebody has the turn.
    busy: Cell<bool>,
    /// The writing side was half-closed.
    shut: Cell<bool>,
    /// The errno that ended the sending side.
    error: Cell<Option<i32>>,
    /// The send that the kernel has, to be cancelled when the stream is dropped.
    pub(crate) in_flight: Cell<Option<Key>>,
    /// Made when something has to wait, which many connections never need.
    backlog: OnceCell<Box<Backlog>>,
}

/// What waits for the turn.
#[derive(Default)]
struct Backlog {
    queue: RefCell<VecDeque<Item>>,
    /// Bytes of `write` that the kernel has not taken.
    bytes: Cell<usize>,
    flushing: RefCell<Vec<Waiter>>,
    spare: Cell<Option<Box<Batch>>>,
}

impl Outbound {
    fn backlog(&self) -> &Backlog {
        self.backlog.get_or_init(Box::default)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.backlog.get().map_or(0, |backlog| backlog.bytes.get())
    }

    /// Somebody has the turn: an operation may be on its way.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.get()
    }

    #[inline]
    fn is_awaited(&self) -> bool {
        self.backlog.get().is_some_and(|backlog| !backlog.queue.borrow().is_empty())
    }

    /// The errno that ended the sending side.
    pub(crate) fn errno(&self) -> Option<i32> {
        self.error.get()
    }

    /// Whether a send met the reset of the connection.
    pub(crate) fn was_reset(&self) -> bool {
        self.error.get() == Some(libc::ECONNRESET)
    }

    /// Whether a send is on its way or has failed, so that it may have been told why the connection is gone.
    pub(crate) fn may_know_more(&self) -> bool {
        self.busy.get() || self.error.get().is_some()
    }

    /// Why the connection is gone, as far as the sends know.
    pub(crate) fn reason(&self) -> i32 {
        self.error.get().filter(|errno| *errno != libc::EPIPE).unwrap_or(libc::ECONNRESET)
    }

    /// Drops everything that has not begun; who waits hears of it.
    fn give_up(&self, after: &mut Aftermath) {
        let Some(backlog) = self.backlog.get() else { return };
        let queue = std::mem::take(&mut *backlog.queue.borrow_mut());
        backlog.bytes.set(0);
        for item in queue {
            match item {
                Item::Bytes(bytes) => after.discard([bytes]),
                Item::Record(_) => {}
                Item::Turn(ticket) => after.wake(ticket.waiter.take()),
            }
        }
        after.wake(backlog.flushing.borrow_mut().drain(..).filter_map(|waiter| waiter.take()));
    }

    /// Whoever waits asks again: the stream is being closed, but what was written still goes out.
    fn wake_all(&self, after: &mut Aftermath) {
        let Some(backlog) = self.backlog.get() else { return };
        for item in &*backlog.queue.borrow() {
            if let Item::Turn(ticket) = item {
                after.wake(ticket.waiter.take());
            }
        }
        after.wake(backlog.flushing.borrow_mut().drain(..).filter_map(|waiter| waiter.take()));
    }

    /// The stream is closed.
    pub(crate) fn clear(&self) {
        let mut after = Aftermath::default();
        self.give_up(&mut after);
        after.run();
    }
}

/// The right to send. Dropping it passes it on.
pub(crate) struct Turn<'a> {
    shared: &'a Shared,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut after = Aftermath::default();
        self.shared.next_turn(&mut after);
        after.run();
    }
}

/// The future of a send.
///
/// Dropped while it waits for the turn, nothing is sent; dropped later, the operation goes on by itself and passes the
/// turn on at its end.
pub(crate) struct Sending<'a, O: SendOp> {
    shared: &'a Rc<Shared>,
    pending: Ask<O>,
    /// Somebody else had the turn.
    queued: Option<Queued<'a>>,
}

impl<O: SendOp> Unpin for Sending<'_, O> {}

impl<O: SendOp> Sending<'_, O> {
    /// The operation, once it has the turn and until its result was fetched.
    pub(crate) fn key(&self) -> Option<Key> {
        self.pending.key()
    }

    /// The buffers, if nothing has begun; then it must not be polled any more.
    pub(crate) fn take_back(&mut self) -> Option<O::Bufs> {
        self.pending.is_new().then(|| self.pending.take_back().into_parts().0)
    }

    /// Asks for the turn; ready when it is ours.
    #[inline]
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.queued.is_none() {
            ready!(check(cx))?;
            self.shared.check_send()?;
            if !self.shared.outbound.busy.replace(true) {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_queued(cx)
    }

    fn poll_queued(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let queued = self.queued.get_or_insert_with(|| Queued::new(self.shared));
        ready!(queued.poll(cx))?;
        // While it queued, the writing side may have been shut down. Dropped, it passes the turn on.
        self.shared.check_send()?;
        queued.take_turn();
        Poll::Ready(Ok(()))
    }

    /// `was_begun`: it was submitted, so that the turn was passed on when it was over.
    #[inline]
    fn end(&mut self, result: i32, op: O, was_begun: bool) -> Result<O::Bufs, Failed<O::Bufs>> {
        let mut result = result;
        if was_begun && passes_turn(result) {
            result = self.shared.told_result(result);
        } else if result < 0 || !self.shared.turn_ends() {
            let mut after = Aftermath::default();
            result = self.shared.turn_over(result, &mut after);
            after.run();
        }
        let (bufs, sent) = op.into_parts();
        if result == -libc::ECANCELED
            && !here::is_cancelled()
            && let Err(closed) = self.shared.check_open()
        {
            return Err(Failed::new(closed, bufs, sent));
        }
        match outcome(result) {
            Ok(_) => Ok(bufs),
            Err(error) => Err(Failed::new(error, bufs, sent)),
        }
    }
}

impl<O: SendOp> Future for Sending<'_, O> {
    type Output = Result<O::Bufs, Failed<O::Bufs>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.pending.is_new()
            && let Err(error) = ready!(this.poll_turn(cx))
        {
            let (bufs, _) = this.pending.take_back().into_parts();
            return Poll::Ready(Err(Failed::new(error, bufs, 0)));
        }
        let was_begun = !this.pending.is_new();
        match Pin::new(&mut this.pending).poll(cx) {
            Poll::Ready((result, op)) => Poll::Ready(this.end(result, op, was_begun)),
            Poll::Pending => {
                this.shared.outbound.in_flight.set(this.pending.key());
                Poll::Pending
            }
        }
    }
}

/// Waits for the turn; dropped before it came, it leaves the queue.
struct Queued<'a> {
    shared: &'a Shared,
    ticket: Rc<Ticket>,
}

impl<'a> Queued<'a> {
    fn new(shared: &'a Shared) -> Self {
        let ticket = Rc::new(Ticket::default());
        shared.outbound.backlog().queue.borrow_mut().push_back(Item::Turn(ticket.clone()));
        Self { shared, ticket }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ticket.granted.get() {
            return Poll::Ready(Ok(()));
        }
        ready!(check(cx))?;
        self.shared.check_turn()?;
        self.wait(cx)
    }

    /// As `poll`, for whoever closes the stream.
    fn poll_last(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ticket.granted.get() {
            return Poll::Ready(Ok(()));
        }
        ready!(check(cx))?;
        self.shared.check_sent()?;
        self.wait(cx)
    }

    fn wait(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.ticket.waiter.register_for(cx, ROOM);
        Poll::Pending
    }

    /// From now on somebody else sees to it that the turn is passed on.
    fn take_turn(&self) {
        self.ticket.taken.set(true);
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if self.ticket.taken.get() {
            return;
        }
        if self.ticket.granted.get() {
            drop(Turn { shared: self.shared });
        } else {
            let is_other =
                |item: &Item| !matches!(item, Item::Turn(ticket) if Rc::ptr_eq(ticket, &self.ticket));
            self.shared.outbound.backlog().queue.borrow_mut().retain(is_other);
        }
    }
}

impl Shared {
    /// Whether the sending side works.
    #[inline]
    fn check_turn(&self) -> io::Result<()> {
        self.check_open()?;
        self.check_sent()
    }

    /// Whether no send has failed.
    #[inline]
    fn check_sent(&self) -> io::Result<()> {
        self.outbound.error.get().map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    /// Whether anything can be sent (still).
    #[inline]
    fn check_send(&self) -> io::Result<()> {
        self.check_turn()?;
        if self.outbound.shut.get() { Err(io::Error::from_raw_os_error(libc::EPIPE)) } else { Ok(()) }
    }

    /// Waits until everything that was sent or written before is out, and takes the turn.
    pub(crate) async fn turn(&self) -> io::Result<Turn<'_>> {
        self.check_turn()?;
        if !self.outbound.busy.replace(true) {
            return Ok(Turn { shared: self });
        }
        let queued = Queued::new(self);
        poll_fn(|cx| queued.poll(cx)).await?;
        queued.take_turn();
        Ok(Turn { shared: self })
    }

    /// Closes a stream that others hold too: who waits is told, what was written goes out first.
    pub(crate) async fn aclose(&self) -> io::Result<()> {
        /// However it ends, the descriptor is closed.
        struct Abandon<'a>(&'a Shared);
        impl Drop for Abandon<'_> {
            fn drop(&mut self) {
                self.0.abandon();
            }
        }
        if self.closed.replace(true) {
            return Ok(());
        }
        let _abandon = Abandon(self);
        self.stop_receiving();
        let mut after = Aftermath::default();
        self.outbound.wake_all(&mut after);
        after.wake(self.receiver.take());
        after.run();
        let sent = self.check_sent();
        let sent = match sent {
            Ok(()) if self.outbound.busy.get() => {
                let queued = Queued::new(self);
                poll_fn(|cx| queued.poll_last(cx)).await
            }
            sent => sent,
        };
        if sent.as_ref().is_err_and(MayBeCancelled::is_cancelled) {
            return sent; // a send is on its way still, and the descriptor in use
        }
        poll_fn(|cx| self.poll_idle(cx)).await;
        let closed = self.descriptor.close().await;
        sent.and(closed)
    }

    /// The turn is free, if nobody waits for it.
    #[inline]
    fn turn_ends(&self) -> bool {
        let nobody = !self.outbound.is_awaited();
        if nobody {
            self.outbound.busy.set(false);
            self.outbound.in_flight.set(None);
            self.close_if_over();
        }
        nobody
    }

    /// The turn is free: the next one gets it.
    fn next_turn(&self, after: &mut Aftermath) {
        self.outbound.busy.set(false);
        self.outbound.in_flight.set(None);
        self.close_if_over();
        let Some(backlog) = self.outbound.backlog.get() else { return };
        let mut batch: Option<Box<Batch>> = None;
        loop {
            let mut queue = backlog.queue.borrow_mut();
            match queue.front() {
                Some(Item::Bytes(_)) if batch.as_ref().is_none_or(|batch| !batch.is_full()) => {
                    if let Some(Item::Bytes(bytes)) = queue.pop_front() {
                        let spare = || backlog.spare.take().unwrap_or_else(Batch::new);
                        batch.get_or_insert_with(spare).owners.push(bytes);
                    }
                }
                Some(Item::Turn(_)) if batch.is_none() => {
                    if let Some(Item::Turn(ticket)) = queue.pop_front() {
                        self.outbound.busy.set(true);
                        ticket.granted.set(true);
                        after.wake(ticket.waiter.take());
                    }
                    return;
                }
                Some(Item::Record(_)) if batch.is_none() => {
                    if let (Some(Item::Record(record)), Some(this)) = (queue.pop_front(), self.rc()) {
                        drop(queue);
                        self.outbound.busy.set(true);
                        self.go(SendRecord::new(this, record));
                    }
                    return;
                }
                _ => break,
            }
        }
        if let (Some(mut batch), Some(this)) = (batch, self.rc()) {
            self.outbound.busy.set(true);
            batch.fill();
            self.go(SendBatch::new(this, batch));
        }
    }

    /// What has the turn, and no future that waits for it.
    fn go<O: Op>(&self, op: O) {
        if let Some(key) = self.driver().submit_detached(op) {
            self.outbound.in_flight.set(Some(key));
        }
    }

    /// Who had the turn is done. After a failure the sending side is over: nothing more is sent, who waits hears of it.
    /// Returns the result as it is on every driver.
    fn turn_over(&self, result: i32, after: &mut Aftermath) -> i32 {
        // Cancelled by its scope, a send leaves the sending side well: it says how far it came.
        let failed = result < 0 && (result != -libc::ECANCELED || self.driver().is_closed());
        if !failed && self.turn_ends() {
            return result;
        }
        // A ring goes on after a short send and meets a broken pipe, where send(2) is told of the reset first.
        let is_reset = result == -libc::EPIPE && !self.outbound.shut.get() && self.was_cut_off();
        let result = if is_reset { -libc::ECONNRESET } else { result };
        if failed {
            if self.outbound.error.get().is_none() {
                self.outbound.error.set(Some(-result));
            }
            self.outbound.give_up(after);
            // Who only receives learns of it too: see `send_error`.
            self.wake_receiver(after);
        }
        self.next_turn(after);
        result
    }

    /// The result of a send that is over, as it is on every driver.
    fn told_result(&self, result: i32) -> i32 {
        if result == -libc::EPIPE && self.outbound.was_reset() { -libc::ECONNRESET } else { result }
    }

    /// Sends what `op` holds when its turn comes.
    pub(crate) fn send<O: SendOp>(self: &Rc<Self>, op: O) -> Sending<'_, O> {
        Sending { shared: self, pending: Ask::new(self.driver(), op, ROOM), queued: None }
    }

    pub(crate) fn write(&self, bytes: Bytes) -> io::Result<usize> {
        self.check_send()?;
        if !bytes.is_empty() {
            self.enqueue(bytes.len(), Item::Bytes(bytes));
        }
        Ok(self.outbound.bytes())
    }

    /// As `write`, where the kernel makes the records, for one of a type of its own.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "only TLS sends such records"))]
    pub(crate) fn write_record(&self, record: Record) -> io::Result<usize> {
        debug_assert_eq!(self.medium.get(), Medium::Records);
        self.check_send()?;
        self.enqueue(record.bytes.len(), Item::Record(Box::new(record)));
        Ok(self.outbound.bytes())
    }

    fn enqueue(&self, bytes: usize, item: Item) {
        let backlog = self.outbound.backlog();
        backlog.bytes.set(backlog.bytes.get() + bytes);
        backlog.queue.borrow_mut().push_back(item);
        if !self.outbound.busy.get() {
            let mut after = Aftermath::default();
            self.next_turn(&mut after);
            debug_assert!(after.is_empty(), "nobody waits for a turn that is free");
        }
    }

    /// So much of what was written is over.
    fn dequeued(&self, bytes: usize, after: &mut Aftermath) {
        let backlog = self.outbound.backlog();
        backlog.bytes.set(backlog.bytes.get().saturating_sub(bytes));
        after.wake(backlog.flushing.borrow_mut().drain(..).filter_map(|waiter| waiter.take()));
    }

    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        ready!(check(cx))?;
        self.check_turn()?;
        if self.outbound.bytes() <= below {
            return Poll::Ready(Ok(()));
        }
        let flushing = &self.outbound.backlog().flushing;
        let known = {
            let mut flushing = flushing.borrow_mut();
            // Who was woken by a cancel is gone. (It has no waker any more, so nothing runs here.)
            flushing.retain(Waiter::has_waker);
            flushing.iter().position(|other| other.wakes(cx)).map(|at| flushing.swap_remove(at))
        };
        // Registering clones the waker, which is foreign code.
        let waiter = known.unwrap_or_default();
        waiter.register_for(cx, ROOM);
        flushing.borrow_mut().push(waiter);
        Poll::Pending
    }

    /// Half-closes at once. Only when nothing is queued and nobody sends.
    pub(crate) fn shut_now(&self) -> io::Result<()> {
        self.outbound.shut.set(true);
        self.descriptor.with(|fd| crate::driver::control::shutdown_write(fd))
    }

    pub(crate) async fn shutdown_write(&self) -> io::Result<()> {
        if self.outbound.shut.get() && !self.closed.get() {
            return Ok(());
        }
        let _turn = self.turn().await?;
        self.descriptor.with(|fd| crate::driver::control::shutdown_write(fd))?;
        self.outbound.shut.set(true);
        Ok(())
    }
}

impl Shared {
    /// Closes the sending side: what was written goes out, then the end of the stream; at once if that is cut short.
    pub(crate) async fn close_sending(&self) -> io::Result<()> {
        struct Shut<'a>(&'a Shared);
        impl Drop for Shut<'_> {
            fn drop(&mut self) {
                if !self.0.outbound.shut.replace(true) && !self.0.closed.get() {
                    // It fails where the connection is gone already.
                    let _ = self.0.descriptor.with(|fd| crate::driver::control::shutdown_write(fd));
                }
            }
        }
        let _shut = Shut(self);
        self.shutdown_write().await
    }
}

impl SendTarget for Shared {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn medium(&self) -> Medium {
        ReceiveTarget::medium(self)
    }

    fn send_over(&self, result: i32, after: &mut Aftermath) {
        self.turn_over(result, after);
    }

    fn batch_over(&self, mut batch: Box<Batch>, result: i32, after: &mut Aftermath) {
        let bytes = batch.owners.iter().map(Bytes::len).sum();
        after.discard(batch.owners.drain(..));
        self.outbound.backlog().spare.set(Some(batch));
        self.dequeued(bytes, after);
        self.turn_over(result, after);
    }

    fn record_over(&self, record: Box<Record>, result: i32, after: &mut Aftermath) {
        self.dequeued(record.bytes.len(), after);
        let mut result = result;
        if let (0.., Some(keys)) = (result, &record.next_keys)
            && let Err(error) = self.descriptor.with(|fd| kernel_tls::set_send_keys(fd, keys))
        {
            // The peer expects them, so nothing more can be sent.
            result = -error.raw_os_error().unwrap_or(libc::EKEYREJECTED);
        }
        self.turn_over(result, after);
    }
}
