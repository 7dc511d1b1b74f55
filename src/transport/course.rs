//! What all transports have in common, whatever they carry: how far they are, when the protocol pauses, and the task that
//! moves them.
//!
//! The protocol is called from the ready queue of the loop, as callbacks of `call_soon` are, and with nothing borrowed.
//! What asyncio puts off by `call_soon` happens in a later poll here: closing wakes the task, which takes it to the end of
//! the queue.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::net::serve::start_one;
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check};
use crate::sync::Event;
use crate::transport::address::SocketAddress;
use crate::transport::limits::WriteBufferLimits;

/// How far a transport is.
#[derive(Default)]
pub(super) enum Life {
    #[default]
    Open,
    /// Closed when everything is sent that was written.
    Closing,
    /// The protocol is to be told that it is lost, in a turn of its own.
    Lost(Option<io::Error>),
    /// The protocol was told.
    Over,
}

/// The state that a transport of any kind has.
pub(super) struct Course {
    life: RefCell<Life>,
    pub(super) limits: Cell<WriteBufferLimits>,
    pub(super) is_writing_paused: Cell<bool>,
    /// Wakes the pump when somebody else changed something.
    pub(super) pump: Waiter,
    pub(super) sockname: Option<SocketAddress>,
    pub(super) peername: Option<SocketAddress>,
}

impl Course {
    pub(super) fn new((sockname, peername): (Option<SocketAddress>, Option<SocketAddress>)) -> Self {
        Self {
            life: RefCell::default(),
            limits: Cell::default(),
            is_writing_paused: Cell::new(false),
            pump: Waiter::new(),
            sockname,
            peername,
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        !matches!(&*self.life.borrow(), Life::Open)
    }

    /// Whether nothing is sent or received any more.
    pub(super) fn is_lost(&self) -> bool {
        matches!(&*self.life.borrow(), Life::Lost(_) | Life::Over)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(&*self.life.borrow(), Life::Over)
    }

    /// Closes when all is sent; at once, if `is_sent`.
    pub(super) fn close(&self, is_sent: bool) {
        // A protocol that was told to pause is told that all is sent, before the end.
        let is_over = is_sent && !self.is_writing_paused.get();
        *self.life.borrow_mut() = if is_over { Life::Lost(None) } else { Life::Closing };
        self.pump.wake();
    }

    /// It is lost now, for this reason. False if it was already.
    pub(super) fn lose(&self, error: Option<io::Error>) -> bool {
        if self.is_lost() {
            return false;
        }
        *self.life.borrow_mut() = Life::Lost(error);
        self.pump.wake();
        true
    }

    /// Why it is lost, if that is to be told.
    fn take_lost(&self) -> Option<Option<io::Error>> {
        match &mut *self.life.borrow_mut() {
            Life::Lost(error) => Some(error.take()),
            _ => None,
        }
    }

    /// How far it was: now it is over.
    pub(super) fn over(&self) -> Life {
        self.life.replace(Life::Over)
    }

    /// Whether the protocol is to be told to pause, with so much in the queue.
    pub(super) fn begins_to_pause(&self, queued: usize) -> bool {
        queued > self.limits.get().high && !self.is_writing_paused.replace(true)
    }
}

/// What a pump moves: a connection, or a socket of datagrams.
pub(super) trait Moved: Unpin + 'static {
    const WHAT: What;

    fn course(&self) -> &Course;
    /// It is lost, for this reason; what was not sent is dropped.
    fn force_close(&self, error: Option<io::Error>);
    fn connection_made(&mut self);
    fn connection_lost(&mut self, error: Option<io::Error>);
    /// It is over: lets go of everything.
    fn leave(&mut self);
    /// Does one thing if there is one to be done.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Tells the protocol that it is lost.
    fn end(&mut self, error: Option<io::Error>) {
        // From here on nothing is written and nobody is told anything.
        let before = self.course().life.replace(Life::Lost(None));
        self.connection_lost(error);
        self.leave();
        drop(before);
    }
}

/// The task that moves a transport: it waits for bytes and for room, and calls the protocol.
struct Pump<M: Moved> {
    moved: M,
    is_begun: bool,
    made: Option<Event>,
}

/// Starts a pump. The protocol is told in the next turn that the connection is made, and then `made` is set.
pub(super) fn run(moved: impl Moved, made: Option<Event>) {
    start_one(Pump { moved, is_begun: false, made });
}

/// Waits for `made`; given up before, it calls `abort`.
pub(super) async fn is_made(made: Event, abort: impl Fn()) -> io::Result<()> {
    struct Unfinished<F: Fn()>(F, bool);
    impl<F: Fn()> Drop for Unfinished<F> {
        fn drop(&mut self) {
            if !self.1 {
                (self.0)();
            }
        }
    }
    let mut unfinished = Unfinished(abort, false);
    made.wait().await?;
    unfinished.1 = true;
    Ok(())
}

impl<M: Moved> Future for Pump<M> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Err(cancelled) = ready!(check(cx)) {
            this.moved.force_close(Some(cancelled.into()));
        }
        this.moved.course().pump.register_for(cx, M::WHAT);
        // What ended it in this poll is told in the next one.
        let lost = this.moved.course().take_lost();
        if !std::mem::replace(&mut this.is_begun, true) {
            this.moved.connection_made();
            if let Some(made) = this.made.take() {
                made.set();
            }
        }
        if let Some(error) = lost {
            this.moved.end(error);
        }
        loop {
            this.moved.course().pump.register_for(cx, M::WHAT);
            if this.moved.course().is_lost() || this.moved.step(cx).is_pending() {
                break;
            }
        }
        if this.moved.course().is_over() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl<M: Moved> Drop for Pump<M> {
    /// The loop was closed under it.
    fn drop(&mut self) {
        if !self.moved.course().is_over() {
            self.moved.leave();
        }
    }
}
