//! The sending side of a socket of messages.
//!
//! Where the order of messages counts, who wants to send needs the *turn*, as on a stream (C9). Datagrams that travel
//! through a network have no order: as many as there are go to the kernel at once. Nor have those that a UNIX socket sends
//! to addresses, for each of which there is room or is none: only those to its peer wait for each other.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;

use crate::buf::IoBuf;
use crate::driver::{Aftermath, Key, control};
use crate::error::Failed;
use crate::net::messages::Messages;
use crate::op::Descriptor;
use crate::op::net::{Envelope, MessageSender, SendMessage};
use crate::runtime::scope::What;
use crate::runtime::sleep;
use crate::runtime::wait::{Ask, Waiter, check, outcome};

const ROOM: What = What(&"room for a message");

/// How long a send waits when the queue of the one it addresses is full; doubled each time, up to a limit.
const RETRY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(64));
/// What a written message counts beside its bytes, so that a limit for the bytes is one for messages without any, too.
const OVERHEAD: usize = 8;
/// The most errors that wait for somebody who flushes; then the oldest is forgotten for each one.
const ERRORS_MAX: usize = 64;
/// Envelopes that are kept for the next sends.
const ENVELOPES_MAX: usize = 256;

enum Item {
    Message(Box<Envelope>, Bytes),
    Turn(Rc<Ticket>),
}

/// Somebody who waits for the turn.
#[derive(Default)]
struct Ticket {
    granted: Cell<bool>,
    waiter: Waiter,
}

pub(crate) struct Sends {
    /// One at a time, in the order in which they were asked for, unless they are for addresses.
    is_ordered: bool,
    /// Somebody has the turn.
    busy: Cell<bool>,
    queue: RefCell<VecDeque<Item>>,
    /// Written messages that the kernel has, to be cancelled when the socket is dropped.
    written: RefCell<Slab<Option<Key>>>,
    /// The send of whoever has the turn, which on a stream goes on when its future is dropped; to be cancelled too.
    in_flight: Cell<Option<Key>>,
    /// Sends of futures that the kernel has.
    begun: Cell<usize>,
    /// Bytes of written messages that the kernel has not taken, and `OVERHEAD` for each of them.
    bytes: Cell<usize>,
    /// Why written messages were not sent, each to be told once.
    errors: RefCell<VecDeque<i32>>,
    flushing: RefCell<Vec<Waiter>>,
    #[allow(clippy::vec_box, reason = "they go into operations as boxes, and come back so")]
    envelopes: RefCell<Vec<Box<Envelope>>>,
}

impl Sends {
    pub(crate) fn new(is_ordered: bool) -> Self {
        Self {
            is_ordered,
            busy: Cell::new(false),
            queue: RefCell::default(),
            written: RefCell::default(),
            in_flight: Cell::new(None),
            begun: Cell::new(0),
            bytes: Cell::new(0),
            errors: RefCell::default(),
            flushing: RefCell::default(),
            envelopes: RefCell::default(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    fn envelope(&self) -> Box<Envelope> {
        self.envelopes.borrow_mut().pop().unwrap_or_else(Envelope::new)
    }

    fn keep(&self, mut envelope: Box<Envelope>) {
        let mut envelopes = self.envelopes.borrow_mut();
        if envelopes.len() < ENVELOPES_MAX {
            envelope.clear();
            envelopes.push(envelope);
        }
    }

    /// The socket is closed: what was not begun is dropped, who waits hears of it.
    pub(crate) fn give_up(&self, after: &mut Aftermath) -> Vec<Key> {
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        for item in queue {
            match item {
                Item::Message(_, bytes) => {
                    self.bytes.set(self.bytes.get().saturating_sub(bytes.len() + OVERHEAD));
                    after.discard([bytes]);
                }
                Item::Turn(ticket) => after.wake(ticket.waiter.take()),
            }
        }
        after.wake(self.flushing.borrow_mut().drain(..).filter_map(|waiter| waiter.take()));
        let written = self.written.borrow();
        written.iter().filter_map(|(_, key)| *key).chain(self.in_flight.get()).collect()
    }

    /// Whoever waits asks again: the socket is being closed, but what was written still goes out.
    pub(crate) fn wake_all(&self, after: &mut Aftermath) {
        for item in &*self.queue.borrow() {
            if let Item::Turn(ticket) = item {
                after.wake(ticket.waiter.take());
            }
        }
        after.wake(self.flushing.borrow_mut().drain(..).filter_map(|waiter| waiter.take()));
    }

    /// Whether the kernel has nothing to send, and will get nothing any more.
    pub(crate) fn is_over(&self) -> bool {
        self.begun.get() == 0 && self.is_idle()
    }

    /// Why a written message was not sent; of each once.
    pub(crate) fn take_error(&self) -> io::Result<()> {
        let errno = self.errors.borrow_mut().pop_front();
        errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    /// The send of whoever has the turn, or had it.
    pub(crate) fn in_flight(&self) -> Option<Key> {
        self.in_flight.get()
    }
}

/// The right to send, where there is one. Dropping it passes it on.
struct Turn<'a>(Option<&'a Rc<Messages>>);

impl Turn<'_> {
    /// From now on the operation passes the turn on when it is over.
    fn hand_over(&mut self) {
        self.0 = None;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.0 {
            let mut after = Aftermath::default();
            socket.next_turn(&mut after);
            after.run();
        }
    }
}

/// Waits for the turn; dropped before it came, it leaves the queue.
struct Queued<'a> {
    socket: &'a Rc<Messages>,
    ticket: Rc<Ticket>,
    taken: bool,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        if self.ticket.granted.get() {
            drop(Turn(Some(self.socket)));
        } else {
            let is_other =
                |item: &Item| !matches!(item, Item::Turn(ticket) if Rc::ptr_eq(ticket, &self.ticket));
            self.socket.sends.queue.borrow_mut().retain(is_other);
        }
    }
}

impl Messages {
    /// Waits for the turn, where it is needed.
    async fn turn(self: &Rc<Self>, is_needed: bool) -> io::Result<Turn<'_>> {
        poll_fn(|cx| check(cx)).await?;
        self.check_open()?;
        if !is_needed {
            return Ok(Turn(None));
        }
        if !self.sends.busy.replace(true) {
            return Ok(Turn(Some(self)));
        }
        let mut queued = Queued { socket: self, ticket: Rc::default(), taken: false };
        self.sends.queue.borrow_mut().push_back(Item::Turn(queued.ticket.clone()));
        poll_fn(|cx| {
            if queued.ticket.granted.get() {
                return Poll::Ready(Ok::<_, io::Error>(()));
            }
            ready!(check(cx))?;
            self.check_open()?;
            queued.ticket.waiter.register_for(cx, ROOM);
            Poll::Pending
        })
        .await?;
        queued.taken = true;
        let turn = Turn(Some(self));
        self.check_open()?;
        Ok(turn)
    }

    /// An envelope with what `address` writes on it, and whether it needs the turn.
    fn envelope(&self, address: impl FnOnce(&mut Envelope) -> io::Result<()>) -> io::Result<Box<Envelope>> {
        self.check_open()?;
        let mut envelope = self.sends.envelope();
        if let Err(error) = address(&mut envelope) {
            self.sends.keep(envelope);
            return Err(error);
        }
        let is_for_any = self.is_unix_datagram_socket() && envelope.address.is_some();
        envelope.needs_turn = self.sends.is_ordered && !is_for_any;
        Ok(envelope)
    }

    /// The turn is free: the next one gets it.
    fn next_turn(self: &Rc<Self>, after: &mut Aftermath) {
        let sends = &self.sends;
        sends.busy.set(false);
        sends.in_flight.set(None);
        loop {
            let next = sends.queue.borrow_mut().pop_front();
            match next {
                Some(Item::Turn(ticket)) => {
                    sends.busy.set(true);
                    ticket.granted.set(true);
                    after.wake(ticket.waiter.take());
                }
                // On a closed loop each send would be over at once, and come back here to begin the next.
                Some(Item::Message(envelope, bytes)) if self.driver().is_closed() => {
                    sends.written_over(bytes.len(), -libc::ECANCELED, after);
                    sends.keep(envelope);
                    after.discard([bytes]);
                    continue;
                }
                Some(Item::Message(envelope, bytes)) => {
                    sends.busy.set(true);
                    self.begin(envelope, bytes);
                }
                None => {}
            }
            return;
        }
    }

    /// Hands a written message to the kernel.
    fn begin(self: &Rc<Self>, mut envelope: Box<Envelope>, bytes: Bytes) {
        let place = self.sends.written.borrow_mut().insert(None);
        envelope.written = Some(place);
        let key = self.driver().submit_detached(SendMessage::new(self.clone(), envelope, bytes));
        if let Some(known) = self.sends.written.borrow_mut().get_mut(place) {
            *known = key;
        }
    }

    /// Sends a message; `address` says where it goes and what goes with it.
    pub(crate) async fn send<B: IoBuf>(
        self: &Rc<Self>,
        mut buf: B,
        address: impl Fn(&mut Envelope) -> io::Result<()>,
    ) -> Result<B, Failed<B>> {
        let mut pause = RETRY.0;
        loop {
            let mut envelope = match self.envelope(&address) {
                Ok(envelope) => envelope,
                Err(error) => return Err(Failed::new(error, buf, 0)),
            };
            let needs_turn = envelope.needs_turn;
            let mut turn = match self.turn(needs_turn).await {
                Ok(turn) => turn,
                Err(error) => return Err(Failed::new(error, buf, 0)),
            };
            let mut ask = Ask::new(self.driver(), SendMessage::new(self.clone(), envelope, buf), ROOM);
            let mut begun = false;
            let (result, op) = poll_fn(|cx| {
                let polled = Pin::new(&mut ask).poll(cx);
                if ask.key().is_some() && !begun {
                    begun = true;
                    self.sends.begun.set(self.sends.begun.get() + 1);
                    if needs_turn {
                        self.sends.in_flight.set(ask.key());
                        turn.hand_over();
                    }
                }
                polled
            })
            .await;
            let sent;
            (envelope, buf, sent) = op.into_parts();
            if begun && !envelope.came_back {
                let mut after = Aftermath::default();
                self.came_back(&envelope, &mut after);
                after.run();
            }
            let is_queue_full = envelope.is_queue_full;
            self.sends.keep(envelope);
            if is_queue_full {
                // Others go on meanwhile: what they send may be for somebody who receives.
                drop(turn);
                if let Err(error) = sleep(pause).await {
                    return Err(Failed::new(error.into(), buf, 0));
                }
                pause = (pause * 2).min(RETRY.1);
                continue;
            }
            return match outcome(result) {
                Ok(_) => Ok(buf),
                Err(error) => Err(Failed::new(error, buf, sent)),
            };
        }
    }

    /// Queues a message that nobody waits for.
    pub(crate) fn write(
        self: &Rc<Self>,
        bytes: Bytes,
        address: impl FnOnce(&mut Envelope) -> io::Result<()>,
    ) -> io::Result<usize> {
        let envelope = self.envelope(address)?;
        self.sends.bytes.set(self.sends.bytes.get() + bytes.len() + OVERHEAD);
        if envelope.needs_turn && self.sends.busy.replace(true) {
            self.sends.queue.borrow_mut().push_back(Item::Message(envelope, bytes));
        } else {
            self.begin(envelope, bytes);
        }
        Ok(self.sends.bytes.get())
    }

    /// Says that no more comes, when all that waits to be sent is sent.
    pub(crate) async fn shutdown_write(self: &Rc<Self>) -> io::Result<()> {
        let _turn = self.turn(self.sends.is_ordered).await?;
        self.descriptor.with(|fd| control::shutdown_write(fd))
    }

    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        ready!(check(cx))?;
        self.check_open()?;
        self.sends.take_error()?;
        if self.sends.bytes.get() <= below && (below > 0 || self.sends.is_idle()) {
            return Poll::Ready(Ok(()));
        }
        let known = {
            let mut flushing = self.sends.flushing.borrow_mut();
            // Who was woken by a cancel is gone. (It has no waker any more, so nothing runs here.)
            flushing.retain(Waiter::has_waker);
            flushing.iter().position(|other| other.wakes(cx)).map(|at| flushing.swap_remove(at))
        };
        // Registering clones the waker, which is foreign code.
        let waiter = known.unwrap_or_default();
        waiter.register_for(cx, ROOM);
        self.sends.flushing.borrow_mut().push(waiter);
        Poll::Pending
    }
}

impl Sends {
    /// A written message was sent, or will not be.
    fn written_over(&self, len: usize, result: i32, after: &mut Aftermath) {
        self.bytes.set(self.bytes.get().saturating_sub(len + OVERHEAD));
        if result < 0 {
            let mut errors = self.errors.borrow_mut();
            if errors.len() == ERRORS_MAX {
                errors.pop_front();
            }
            errors.push_back(-result);
        }
        after.wake(self.flushing.borrow_mut().drain(..).filter_map(|waiter| waiter.take()));
    }

    /// Whether no written message is left.
    fn is_idle(&self) -> bool {
        let is_waiting = |item: &Item| matches!(item, Item::Message(..));
        self.written.borrow().is_empty() && !self.queue.borrow().iter().any(is_waiting)
    }
}

impl Messages {
    /// A message that had the turn is over.
    fn pass_turn(&self, envelope: &Envelope, after: &mut Aftermath) {
        if envelope.needs_turn
            && let Some(this) = self.rc()
        {
            this.next_turn(after);
        }
    }
}

impl MessageSender for Messages {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn send_over(&self, envelope: Box<Envelope>, len: usize, result: i32, after: &mut Aftermath) {
        if let Some(place) = envelope.written {
            self.sends.written.borrow_mut().try_remove(place);
            self.sends.written_over(len, result, after);
            self.wake_closer(after);
            self.pass_turn(&envelope, after);
        } else if !envelope.came_back {
            self.came_back(&envelope, after);
        }
        self.sends.keep(envelope);
    }

    fn came_back(&self, envelope: &Envelope, after: &mut Aftermath) {
        self.sends.begun.set(self.sends.begun.get() - 1);
        self.wake_closer(after);
        self.pass_turn(envelope, after);
    }

    fn sends_parts(&self) -> bool {
        self.is_stream_socket()
    }

    fn must_not_wait(&self) -> bool {
        self.is_unix_datagram_socket()
    }

    fn is_of_another(&self, errno: i32) -> bool {
        // One that is too big stays so, and the kernel would tell of it twice.
        errno != libc::EMSGSIZE && self.is_told_elsewhere(errno)
    }
}
