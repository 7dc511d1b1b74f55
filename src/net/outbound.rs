//! The sending side of a stream: one send in flight, everything else in order behind it (C9).
//!
//! Who wants to send needs the *turn*. `send` takes it, or queues for it; `write` queues bytes, which go out together,
//! vectored, when the turn comes to them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::buf::IoBuf;
use crate::driver::{Key, Op, Pending, Wakers};
use crate::error::Failed;
use crate::net::shared::Shared;
use crate::op::Descriptor;
use crate::op::net::{Batch, SendAll, SendBatch, SendTarget, SendVectored};
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

    /// Drops everything that has not begun.
    pub(crate) fn clear(&self) {
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        let mut wakers = std::mem::take(&mut *self.flushing.borrow_mut());
        self.bytes.set(0);
        for item in &queue {
            if let Item::Turn(ticket) = item {
                wakers.extend(ticket.waiter.take());
            }
        }
        drop(queue);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// The right to send. Dropping it passes it on.
pub(crate) struct Turn<'a> {
    shared: &'a Shared,
    /// The operation that was submitted passes it on when it is over.
    handed_over: bool,
}

impl Turn<'_> {
    fn new(shared: &Shared) -> Turn<'_> {
        Turn { shared, handed_over: false }
    }

    fn hand_over(mut self) {
        self.handed_over = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.handed_over {
            return;
        }
        let mut wakers = Wakers::new();
        self.shared.next_turn(&mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Waits for the turn; dropped before it came, it leaves the queue.
struct Queued<'a> {
    shared: &'a Shared,
    ticket: Rc<Ticket>,
    done: bool,
}

impl Queued<'_> {
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
            drop(Turn::new(self.shared));
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

    /// The turn, to send something.
    async fn turn_to_send(&self) -> io::Result<Turn<'_>> {
        self.check_send()?;
        let turn = self.turn().await?;
        // While it queued, the writing side may have been shut down.
        self.check_send()?;
        Ok(turn)
    }

    /// Waits until everything that was sent or written before is out, and takes the turn.
    pub(crate) async fn turn(&self) -> io::Result<Turn<'_>> {
        self.check_turn()?;
        if !self.outbound.busy.replace(true) {
            return Ok(Turn::new(self));
        }
        let ticket = Rc::new(Ticket::default());
        self.outbound.queue.borrow_mut().push_back(Item::Turn(ticket.clone()));
        let mut queued = Queued { shared: self, ticket, done: false };
        poll_fn(|cx| queued.poll(cx)).await?;
        queued.done = true;
        Ok(Turn::new(self))
    }

    /// The turn is free: the next one gets it.
    fn next_turn(&self, wakers: &mut Wakers) {
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
                        wakers.extend(ticket.waiter.take());
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

    /// The sending side is over: who waits hears of it.
    fn fail_send(&self, errno: i32) {
        if self.outbound.error.get().is_none() {
            self.outbound.error.set(Some(errno));
        }
    }

    pub(crate) async fn send<B: IoBuf>(self: &Rc<Self>, buf: B) -> Result<B, Failed<B>> {
        let turn = match self.turn_to_send().await {
            Ok(turn) => turn,
            Err(error) => return Err(Failed::new(error, buf, 0)),
        };
        if buf.is_empty() {
            return Ok(buf);
        }
        turn.hand_over();
        let mut pending = pin!(Pending::new(self.driver(), SendAll::new(self.clone(), buf)));
        let (result, op) = self.in_flight(pending.as_mut()).await;
        drop(Turn::new(self));
        let (buf, sent) = op.into_parts();
        if result < 0 { Err(Failed::new(io::Error::from_raw_os_error(-result), buf, sent)) } else { Ok(buf) }
    }

    pub(crate) async fn send_vectored<B: IoBuf>(
        self: &Rc<Self>,
        bufs: Vec<B>,
    ) -> Result<Vec<B>, Failed<Vec<B>>> {
        let turn = match self.turn_to_send().await {
            Ok(turn) => turn,
            Err(error) => return Err(Failed::new(error, bufs, 0)),
        };
        if bufs.iter().all(IoBuf::is_empty) {
            return Ok(bufs);
        }
        turn.hand_over();
        let mut pending = pin!(Pending::new(self.driver(), SendVectored::new(self.clone(), bufs)));
        let (result, op) = self.in_flight(pending.as_mut()).await;
        drop(Turn::new(self));
        let (bufs, sent) = op.into_parts();
        if result < 0 {
            Err(Failed::new(io::Error::from_raw_os_error(-result), bufs, sent))
        } else {
            Ok(bufs)
        }
    }

    /// Waits for a send that has the turn; its key is known meanwhile, so that dropping the stream can cancel it.
    async fn in_flight<O: Op>(&self, mut pending: Pin<&mut Pending<O>>) -> (i32, O) {
        let (result, op) = poll_fn(|cx| {
            let polled = pending.as_mut().poll(cx);
            self.outbound.in_flight.set(pending.key());
            polled
        })
        .await;
        if result < 0 {
            self.fail_send(-result);
        }
        (result, op)
    }

    pub(crate) fn write(&self, bytes: Bytes) -> io::Result<usize> {
        self.check_send()?;
        if !bytes.is_empty() {
            self.outbound.bytes.set(self.outbound.bytes.get() + bytes.len());
            self.outbound.queue.borrow_mut().push_back(Item::Bytes(bytes));
            if !self.outbound.busy.get() {
                let mut wakers = Wakers::new();
                self.next_turn(&mut wakers);
                debug_assert!(wakers.is_empty(), "nobody waits for a turn that is free");
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
        let mut flushing = self.outbound.flushing.borrow_mut();
        if !flushing.iter().any(|waker| waker.will_wake(cx.waker())) {
            flushing.push(cx.waker().clone());
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

    fn send_over(&self, result: i32, wakers: &mut Wakers) {
        if result < 0 {
            self.fail_send(-result);
        }
        self.next_turn(wakers);
    }

    fn batch_over(&self, mut batch: Box<Batch>, result: i32, wakers: &mut Wakers) {
        let bytes: usize = batch.owners.iter().map(Bytes::len).sum();
        self.outbound.bytes.set(self.outbound.bytes.get().saturating_sub(bytes));
        batch.clear();
        self.outbound.spare.set(Some(batch));
        if result < 0 {
            self.fail_send(-result);
            let queue = std::mem::take(&mut *self.outbound.queue.borrow_mut());
            self.outbound.bytes.set(0);
            for item in &queue {
                if let Item::Turn(ticket) = item {
                    wakers.extend(ticket.waiter.take());
                }
            }
        }
        wakers.append(&mut self.outbound.flushing.borrow_mut());
        self.next_turn(wakers);
    }
}
