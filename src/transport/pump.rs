//! What moves a transport: one task, which waits for bytes and for room, and calls the protocol.
//!
//! The protocol is called from the ready queue of the loop, as callbacks of `call_soon` are, and with nothing borrowed.
//! What asyncio puts off by `call_soon` happens in a later poll here: closing wakes the task, which takes it to the end of
//! the queue.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;

use crate::net::serve::start_one;
use crate::net::shared::Shared;
use crate::op::net::ReceiveInto;
use crate::runtime::scope::What;
use crate::runtime::wait::{Ask, check};
use crate::sync::Event;
use crate::transport::handle::{Eof, State, Transport};
use crate::transport::protocol::AnyProtocol;
use crate::transport::report::call;

/// Starts a transport; complete when the protocol was told that the connection is made.
pub(super) async fn start(stream: Rc<Shared>, protocol: AnyProtocol) -> io::Result<Transport> {
    let made = Event::new();
    let transport = begin(stream, protocol, Some(made.clone()));
    match made.wait().await {
        Ok(()) => Ok(transport),
        Err(cancelled) => {
            transport.abort();
            Err(cancelled.into())
        }
    }
}

/// Starts a transport. The protocol is told of it in the next turn.
pub(super) fn begin(stream: Rc<Shared>, protocol: AnyProtocol, made: Option<Event>) -> Transport {
    let state = State::new(stream.clone(), protocol);
    start_one(Pump { state: state.clone(), stream, is_begun: false, made, asked: None });
    Transport { state }
}

struct Pump {
    state: Rc<State>,
    stream: Rc<Shared>,
    is_begun: bool,
    made: Option<Event>,
    /// The receive into a buffer of the protocol.
    asked: Option<Ask<ReceiveInto<Shared, BytesMut>>>,
}

const CONNECTION: What = What(&"a connection of a transport");

impl Future for Pump {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Err(cancelled) = ready!(check(cx)) {
            this.state.force_close(Some(cancelled.into()));
        }
        this.state.pump.register_for(cx, CONNECTION);
        // What ended the connection in this poll is told in the next one.
        let lost = this.state.take_lost();
        if !std::mem::replace(&mut this.is_begun, true) {
            this.begin();
        }
        if let Some(error) = lost {
            this.end(error);
        }
        while this.step(cx).is_ready() {}
        if this.state.is_over() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Pump {
    fn begin(&mut self) {
        let transport = Transport { state: self.state.clone() };
        if let Some(protocol) = self.state.protocol() {
            let _ = call("connection_made", || protocol.connection_made(&transport));
        }
        if let Some(made) = self.made.take() {
            made.set();
        }
    }

    fn end(&mut self, error: Option<io::Error>) {
        if let Some(protocol) = self.state.protocol() {
            let _ = call("connection_lost", || protocol.connection_lost(error));
        }
        self.asked = None;
        self.state.leave();
    }

    /// Does one thing if there is one to be done.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.state.clone();
        state.pump.register_for(cx, CONNECTION);
        if state.is_lost() {
            return Poll::Pending;
        }
        // Reading first: of a connection that is gone it tells more than writing.
        if self.step_reading(cx).is_ready() {
            return Poll::Ready(());
        }
        if let Some(error) = self.stream.send_error() {
            state.force_close(Some(error));
            return Poll::Pending;
        }
        self.step_writing(cx)
    }

    /// Looks whether enough was sent for what waits for that.
    fn step_writing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.state.clone();
        let is_sent =
            |cx: &mut Context<'_>, below| matches!(self.stream.poll_flush(cx, below), Poll::Ready(Ok(())));
        if state.is_writing_paused.get() && is_sent(cx, state.limits.get().low) {
            state.is_writing_paused.set(false);
            if let Some(protocol) = state.protocol() {
                let _ = call("resume_writing", || protocol.resume_writing());
            }
            return Poll::Ready(());
        }
        let is_closing = state.is_closing();
        // The end of a file wakes this task.
        let is_awaited = (is_closing || state.eof.get() == Eof::Asked) && state.files.get() == 0;
        if !is_awaited || !is_sent(cx, 0) {
            return Poll::Pending;
        }
        if is_closing {
            self.end(None);
        } else {
            state.eof.set(Eof::Sent);
            // It fails if the connection is gone, which is told otherwise.
            let _ = self.stream.shut_now();
        }
        Poll::Ready(())
    }

    /// Gives the protocol what came.
    fn step_reading(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.state.clone();
        if state.is_switched.take() {
            self.asked = None; // its bytes stay with the stream
        }
        let protocol = state.protocol().filter(|_| !state.is_deaf());
        let received = match protocol {
            None => {
                self.stream.watch(cx);
                return Poll::Pending;
            }
            Some(AnyProtocol::Stream(protocol)) => match ready!(self.stream.poll_receive(cx)) {
                Ok(Some(data)) => call("data_received", || protocol.data_received(data)),
                Ok(None) => self.eof(),
                Err(error) => Err(error),
            },
            Some(AnyProtocol::Buffered(protocol)) => {
                let buffer = || match call("get_buffer", || protocol.get_buffer(None))? {
                    buffer if buffer.capacity() == 0 => {
                        Err(io::Error::other("get_buffer returned a buffer without room"))
                    }
                    buffer => Ok(buffer),
                };
                match ready!(self.stream.poll_receive_buf(cx, &mut self.asked, buffer)) {
                    Ok(Some((count, buffer))) => {
                        call("buffer_updated", || protocol.buffer_updated(buffer, count))
                    }
                    Ok(None) => self.eof(),
                    Err(error) => Err(error),
                }
            }
        };
        if let Err(error) = received {
            state.force_close(Some(error));
        }
        Poll::Ready(())
    }

    /// The peer sends no more.
    fn eof(&self) -> io::Result<()> {
        // The kernel tells once why a connection is gone. If a send was told, this is no end that the peer meant.
        if let Some(error) = self.stream.send_error() {
            return Err(error);
        }
        let Some(protocol) = self.state.protocol() else { return Ok(()) };
        if call("eof_received", || protocol.eof_received())? {
            self.state.is_at_eof.set(true);
        } else {
            self.state.close();
        }
        Ok(())
    }
}

impl Drop for Pump {
    /// The loop was closed under it.
    fn drop(&mut self) {
        if !self.state.is_over() {
            self.state.leave();
        }
    }
}
