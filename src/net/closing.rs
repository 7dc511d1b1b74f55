//! How a socket of messages ends: in order, or at once.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;

use crate::driver::Aftermath;
use crate::net::messages::Messages;
use crate::runtime::scope::What;
use crate::runtime::wait::cut;

impl Messages {
    /// Ends everything that is on its way. What is not over then closes the descriptor when it is.
    pub(crate) fn abandon(&self) {
        self.closed.set(true);
        self.abandoned.set(true);
        self.stop_receiving();
        let mut after = Aftermath::default();
        let errors = self.errors.get().and_then(|errors| errors.close(&mut after));
        for key in self.sends.give_up(&mut after).into_iter().chain(errors) {
            self.driver().cancel(key);
        }
        self.clear();
        after.run();
        self.close_if_over();
    }

    /// Whether no operation uses the descriptor, and nothing waits to be sent.
    fn is_over(&self) -> bool {
        !self.receives() && self.sends.is_over() && self.errors.get().is_none_or(|errors| !errors.are_read())
    }

    /// Closes the descriptor of an abandoned socket, once no operation uses it (C13).
    fn close_if_over(&self) {
        if self.abandoned.get() && self.is_over() {
            self.descriptor.release();
        }
    }

    /// An operation is over: whoever closes may go on.
    pub(crate) fn wake_closer(&self, after: &mut Aftermath) {
        self.close_if_over();
        after.wake(self.closer.take());
    }

    /// The user's handle was dropped.
    pub(crate) fn drop_handle(&self) {
        if !self.closing.get() {
            self.abandon();
        }
    }

    /// Closes a socket that others hold too: who waits is told, what was written goes out first, and so does a send that has
    /// begun.
    pub(crate) async fn aclose(self: &Rc<Self>) -> io::Result<()> {
        /// However it ends, the descriptor is closed.
        struct Abandon<'a>(&'a Messages);
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
        if let Some(key) = self.errors.get().and_then(|errors| errors.close(&mut after)) {
            self.driver().cancel(key);
        }
        self.sends.wake_all(&mut after);
        after.wake(self.receiver.take());
        after.run();
        poll_fn(|cx| {
            if self.is_over() {
                return Poll::Ready(());
            }
            self.closer.register(cx);
            Poll::Pending
        })
        .await;
        let sent = self.sends.take_error();
        let closed = self.descriptor.close().await;
        sent.and(closed)
    }

    /// As `aclose`, for the only one who has the socket, whose handle it takes: nobody waits for a send any more.
    pub(crate) async fn close<H>(self: Rc<Self>, handle: H) -> io::Result<()> {
        self.closing.set(true);
        drop(handle);
        if let Some(key) = self.sends.in_flight() {
            self.driver().cancel(key);
        }
        cut(What(&"a socket to close"), self.aclose()).await
    }
}
