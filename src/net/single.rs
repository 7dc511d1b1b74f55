//! Receiving into a buffer of the caller, which nothing else receives beside.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::buf::IoBufMut;
use crate::driver::{Key, Op};
use crate::error::{Busy, Failed};
use crate::net::shared::{BYTES, Claim, Receiving, Shared};
use crate::op::net::ReceiveInto;
use crate::runtime::here;
use crate::runtime::wait::{Ask, outcome};

impl Shared {
    pub(crate) async fn receive_into<B: IoBufMut>(
        self: &Rc<Self>,
        mut buf: B,
    ) -> Result<(usize, B), Failed<B>> {
        if self.receive_claimed.replace(true) {
            return Err(Failed::new(Busy::new("receiving from").into(), buf, 0));
        }
        let _claim = Claim(self);
        if buf.capacity() == 0 {
            return Ok((0, buf));
        }
        // What the armed receive brought, or brings while it is stopped, comes first.
        if let Err(error) = std::future::poll_fn(|cx| self.poll_stopped(cx)).await {
            return Err(Failed::new(error, buf, 0));
        }
        let copied = self.copy_inbound(&mut buf);
        if copied > 0 {
            return Ok((copied, buf));
        }
        match self.ended() {
            Some(Ok(())) => return Ok((0, buf)),
            Some(Err(error)) => return Err(Failed::new(error, buf, 0)),
            None => {}
        }
        if self.awaits_peer.get() {
            // The pooled receive knows how to wait for a peer.
            match std::future::poll_fn(|cx| self.poll_receive(cx)).await {
                Ok(Some(chunk)) => self.inbound.push_first(chunk),
                Ok(None) => return Ok((0, buf)),
                Err(error) => return Err(Failed::new(error, buf, 0)),
            }
            let copied = self.copy_inbound(&mut buf);
            return Ok((copied, buf));
        }
        let (result, op) = self.single(ReceiveInto::new(self.clone(), buf)).await;
        match result.and_then(outcome) {
            Ok(count) => Ok((count as usize, op.into_buf())),
            Err(error) => Err(Failed::new(error, op.into_buf(), 0)),
        }
    }

    /// Performs the one receive into a buffer of the caller; an error if the stream was closed meanwhile.
    pub(crate) async fn single<O: Op>(&self, op: O) -> (io::Result<i32>, O) {
        /// Gives the receiving side back if the receive was never submitted.
        struct Begun<'a>(&'a Shared);
        impl Drop for Begun<'_> {
            fn drop(&mut self) {
                if self.0.receiving.get() == Receiving::Single(None) {
                    self.0.receiving.set(Receiving::Idle);
                }
            }
        }
        self.receiving.set(Receiving::Single(None));
        let _begun = Begun(self);
        let mut ask = Ask::new(self.driver(), op, BYTES);
        let (result, op) = std::future::poll_fn(|cx| {
            let polled = Pin::new(&mut ask).poll(cx);
            self.note_single(ask.key());
            polled
        })
        .await;
        self.receiving.set(Receiving::Idle);
        self.note_end(result);
        let result = self.was_stopped(result).map_or(Ok(result), Err);
        self.close_if_over();
        (result, op)
    }

    /// What closing cancels: the receive that began just now, and was submitted with this key.
    pub(crate) fn note_single(&self, key: Option<Key>) {
        if key.is_some() && self.receiving.get() == Receiving::Single(None) {
            self.receiving.set(Receiving::Single(key));
        }
    }

    /// Why a receive was cancelled, if it was not by its scope: the stream was closed meanwhile.
    pub(crate) fn was_stopped(&self, result: i32) -> Option<io::Error> {
        if result == -libc::ECANCELED && !here::is_cancelled() { self.check_receive().err() } else { None }
    }

    /// One receive into a buffer of the caller, as a poll face; `None` at the end of the stream. `asked` holds what is in
    /// flight; `buf` makes the buffer, once something is received or waited for.
    pub(crate) fn poll_receive_buf<B: IoBufMut>(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        asked: &mut Option<Ask<ReceiveInto<Self, B>>>,
        buf: impl FnOnce() -> io::Result<B>,
    ) -> Poll<io::Result<Option<(usize, B)>>> {
        // One that was put off, in a cancelled scope, has not begun, and somebody else may receive meanwhile.
        let ask = match asked {
            Some(ask) if !ask.is_new() => ask,
            _ => {
                *asked = None;
                ready!(self.poll_stopped(cx))?;
                if self.inbound.bytes() > 0 {
                    let mut buf = buf()?;
                    return Poll::Ready(Ok(Some((self.copy_inbound(&mut buf), buf))));
                }
                if let Some(end) = self.ended() {
                    return Poll::Ready(end.map(|()| None));
                }
                let op = ReceiveInto::new(self.clone(), buf()?);
                asked.insert(Ask::new(self.driver(), op, BYTES))
            }
        };
        let polled = Pin::new(&mut *ask).poll(cx);
        if let Some(key) = ask.key() {
            self.receiving.set(Receiving::Single(Some(key)));
        }
        let (result, op) = ready!(polled);
        *asked = None;
        self.receiving.set(Receiving::Idle);
        self.note_end(result);
        self.close_if_over();
        match outcome(result)? {
            0 => Poll::Ready(Ok(None)),
            count => Poll::Ready(Ok(Some((count as usize, op.into_buf())))),
        }
    }
}
