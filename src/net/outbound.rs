//! The sending side of a stream: one send in flight, everything else in order behind it (C9).
//!
//! Who wants to send needs the *turn*. `send` takes it, or queues for it; `write` queues bytes, which go out together,
//! vectored, when the turn comes to them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::driver::{Aftermath, Key, Pending};
use crate::error::Failed;
use crate::net::shared::Shared;
use crate::op::Descriptor;
use crate::op::net::{Batch, SendBatch, SendOp, SendTarget};
use crate::runtime::wait::Waiter;

enum Item {
    Bytes(Bytes),
    Turn(Rc<Ticket>),
}

/// Somebody who waits for the turn.
#[derive(Default)]
struct Ticket {
    granted: Cell<bool>,
    waiter: Waiter,
}

#[derive(Default)]
pub(crate) struct Outbound {
    /// Somebody has the turn.
    busy: Cell<bool>,
    queue: RefCell<VecDeque<Item>>,
    /// Bytes of `write` that the kernel has not taken.
    bytes: Cell<usize>,
    /// The send that the kernel has, to be cancelled when the stream is dropped.
    pub(crate) in_flight: Cell<Option<Key>>,
    /// The errno that ended the sending side.
    error: Cell<Option<i32>>,
    /// The writing side was half-closed.
    shut: Cell<bool>,
    flushing: RefCell<Vec<Waker>>,
    spare: Cell<Option<Box<Batch>>>,
}

impl Outbound {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Whether a send met the reset of the connection.
    pub(crate) fn was_reset(&self) -> bool {
        self.error.get() == Some(libc::ECONNRESET)
    }

    /// Drops everything that has not begun; who waits hears of it.
    fn give_up(&self, after: &mut Aftermath) {
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        self.bytes.set(0);
        for item in queue {
            match item {
                Item::Bytes(bytes) => after.discard([bytes]),
                Item::Turn(ticket) => after.wake(ticket.waiter.take()),
            }
        }
        after.wake(self.flushing.borrow_mut().drain(..));
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
    pending: Pending<O>,
    stage: SendStage<'a>,
}

enum SendStage<'a> {
    New,
    Queued(Queued<'a>),
    InFlight,
}

impl<O: SendOp> Unpin for Sending<'_, O> {}

impl<O: SendOp> Sending<'_, O> {
    /// Asks for the turn; ready when it is ours.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let SendStage::New = self.stage {
            self.shared.check_send()?;
            if !self.shared.outbound.busy.replace(true) {
                return Poll::Ready(Ok(()));
            }
            self.stage = SendStage::Queued(Queued::new(self.shared));
        }
        if let SendStage::Queued(queued) = &mut self.stage {
            std::task::ready!(queued.poll(cx))?;
            // While it queued, the writing side may have been shut down. Dropped, it passes the turn on.
            self.shared.check_send()?;
            queued.done = true;
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self, result: i32, op: O) -> Result<O::Bufs, Failed<O::Bufs>> {
        if result < 0 || !self.shared.turn_ends() {
            let mut after = Aftermath::default();
            self.shared.turn_over(result, &mut after);
            after.run();
        }
        let (bufs, sent) = op.into_parts();
        if result < 0 {
            Err(Failed::new(io::Error::from_raw_os_error(-result), bufs, sent))
        } else {
            Ok(bufs)
        }
    }
}

impl<O: SendOp> Future for Sending<'_, O> {
    type Output = Result<O::Bufs, Failed<O::Bufs>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if !matches!(this.stage, SendStage::InFlight) {
            if let Err(error) = std::task::ready!(this.poll_turn(cx)) {
                let (bufs, _) = this.pending.take_back().into_parts();
                return Poll::Ready(Err(Failed::new(error, bufs, 0)));
            }
            this.stage = SendStage::InFlight;
        }
        let polled = Pin::new(&mut this.pending).poll(cx);
        this.shared.outbound.in_flight.set(this.pending.key());
        polled.map(|(result, op)| this.end(result, op))
    }
}

/// Waits for the turn; dropped before it came, it leaves the queue.
struct Queued<'a> {
    shared: &'a Shared,
    ticket: Rc<Ticket>,
    done: bool,
}

impl<'a> Queued<'a> {
    fn new(shared: &'a Shared) -> Self {
        let ticket = Rc::new(Ticket::default());
        shared.outbound.queue.borrow_mut().push_back(Item::Turn(ticket.clone()));
        Self { shared, ticket, done: false }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ticket.granted.get() {
            return Poll::Ready(Ok(()));
        }
        self.shared.check_turn()?;
        self.ticket.waiter.register(cx);
        Poll::Pending
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if self.ticket.granted.get() {
            drop(Turn { shared: self.shared });
        } else {
            let is_other =
                |item: &Item| !matches!(item, Item::Turn(ticket) if Rc::ptr_eq(ticket, &self.ticket));
            self.shared.outbound.queue.borrow_mut().retain(is_other);
        }
    }
}

impl Shared {
    /// Whether the sending side works.
    fn check_turn(&self) -> io::Result<()> {
        self.check_open()?;
        self.outbound.error.get().map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    /// Whether anything can be sent (still).
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
        let mut queued = Queued::new(self);
        poll_fn(|cx| queued.poll(cx)).await?;
        queued.done = true;
        Ok(Turn { shared: self })
    }

    /// The turn is free, if nobody waits for it.
    fn turn_ends(&self) -> bool {
        let nobody = self.outbound.queue.borrow().is_empty();
        if nobody {
            self.outbound.busy.set(false);
            self.outbound.in_flight.set(None);
        }
        nobody
    }

    /// The turn is free: the next one gets it.
    fn next_turn(&self, after: &mut Aftermath) {
        self.outbound.busy.set(false);
        self.outbound.in_flight.set(None);
        let mut batch: Option<Box<Batch>> = None;
        loop {
            let mut queue = self.outbound.queue.borrow_mut();
            match queue.front() {
                Some(Item::Bytes(_)) if batch.as_ref().is_none_or(|batch| !batch.is_full()) => {
                    if let Some(Item::Bytes(bytes)) = queue.pop_front() {
                        let spare = || self.outbound.spare.take().unwrap_or_else(Batch::new);
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
                _ => break,
            }
        }
        if let (Some(mut batch), Some(this)) = (batch, self.rc()) {
            self.outbound.busy.set(true);
            batch.fill();
            let key = self.driver().submit_detached(SendBatch::new(this, batch));
            if self.outbound.busy.get() {
                self.outbound.in_flight.set(Some(key));
            }
        }
    }

    /// Who had the turn is done. After a failure the sending side is over: nothing more is sent, who waits hears of it.
    fn turn_over(&self, result: i32, after: &mut Aftermath) {
        if result >= 0 && self.turn_ends() {
            return;
        }
        if result < 0 {
            if self.outbound.error.get().is_none() {
                self.outbound.error.set(Some(-result));
            }
            self.outbound.give_up(after);
        }
        self.next_turn(after);
    }

    /// Sends what `op` holds when its turn comes.
    pub(crate) fn send<O: SendOp>(self: &Rc<Self>, op: O) -> Sending<'_, O> {
        Sending { shared: self, pending: Pending::new(self.driver(), op), stage: SendStage::New }
    }

    pub(crate) fn write(&self, bytes: Bytes) -> io::Result<usize> {
        self.check_send()?;
        if !bytes.is_empty() {
            self.outbound.bytes.set(self.outbound.bytes.get() + bytes.len());
            self.outbound.queue.borrow_mut().push_back(Item::Bytes(bytes));
            if !self.outbound.busy.get() {
                let mut after = Aftermath::default();
                self.next_turn(&mut after);
                debug_assert!(after.is_empty(), "nobody waits for a turn that is free");
            }
        }
        Ok(self.outbound.bytes.get())
    }

    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        self.check_open()?;
        if let Some(errno) = self.outbound.error.get() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        if self.outbound.bytes.get() <= below {
            return Poll::Ready(Ok(()));
        }
        let waker = cx.waker().clone(); // foreign code, so before the borrow
        let mut flushing = self.outbound.flushing.borrow_mut();
        if !flushing.iter().any(|other| other.will_wake(&waker)) {
            flushing.push(waker);
        }
        Poll::Pending
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

impl SendTarget for Shared {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn send_over(&self, result: i32, after: &mut Aftermath) {
        self.turn_over(result, after);
    }

    fn batch_over(&self, mut batch: Box<Batch>, result: i32, after: &mut Aftermath) {
        let bytes: usize = batch.owners.iter().map(Bytes::len).sum();
        self.outbound.bytes.set(self.outbound.bytes.get().saturating_sub(bytes));
        after.discard(batch.owners.drain(..));
        self.outbound.spare.set(Some(batch));
        after.wake(self.outbound.flushing.borrow_mut().drain(..));
        self.turn_over(result, after);
    }
}
