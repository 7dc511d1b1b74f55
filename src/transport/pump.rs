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

use crate::buf::Chunk;
use crate::net::serve::start_one;
use crate::net::shared::Shared;
use crate::op::net::{ReceiveInto, WaitForBytes};
use crate::runtime::scope::What;
use crate::runtime::wait::{Ask, check};
use crate::stream::BoxFuture;
use crate::sync::Event;
use crate::transport::below::{Below, Way};
use crate::transport::handle::{Eof, Life, State, Transport};
use crate::transport::protocol::{AnyProtocol, BufferedProtocol};
use crate::transport::report::{call, call_fatal};

/// Starts a transport; complete when the protocol was told that the connection is made.
pub(super) async fn start(below: Below, protocol: AnyProtocol) -> io::Result<Transport> {
    let made = Event::new();
    let transport = begin(below, protocol, Some(made.clone()));
    match made.wait().await {
        Ok(()) => Ok(transport),
        Err(cancelled) => {
            transport.abort();
            Err(cancelled.into())
        }
    }
}

/// Starts a transport. The protocol is told of it in the next turn.
pub(super) fn begin(below: Below, protocol: AnyProtocol, made: Option<Event>) -> Transport {
    let transport = Transport { state: State::new(below.clone(), protocol) };
    start_one(Pump {
        transport: transport.clone(),
        below: Some(below),
        is_begun: false,
        made,
        asked: None,
        hangup: None,
        ending: None,
    });
    transport
}

struct Pump {
    transport: Transport,
    /// As in the state of the transport.
    below: Option<Below>,
    is_begun: bool,
    made: Option<Event>,
    /// The receive into a buffer of the protocol.
    asked: Option<Ask<ReceiveInto<Shared, BytesMut>>>,
    /// The wait for the reader of a pipe to go away.
    hangup: Option<Ask<WaitForBytes<Shared>>>,
    /// What has to be done before the end, of writing or of everything.
    ending: Option<BoxFuture<'static, io::Result<()>>>,
}

const CONNECTION: What = What(&"a connection of a transport");

impl Future for Pump {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let state = this.transport.state.clone();
        if let Err(cancelled) = ready!(check(cx)) {
            state.force_close(Some(cancelled.into()));
        }
        state.pump.register_for(cx, CONNECTION);
        // What ended the connection in this poll is told in the next one.
        let lost = state.take_lost();
        if !std::mem::replace(&mut this.is_begun, true) {
            this.begin();
        }
        if let Some(error) = lost {
            this.end(error);
        }
        while this.step(cx).is_ready() {}
        if state.is_over() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Pump {
    fn begin(&mut self) {
        if let Some(protocol) = self.transport.state.protocol() {
            let _ = call(&self.transport, "connection_made", || protocol.connection_made(&self.transport));
        }
        if let Some(made) = self.made.take() {
            made.set();
        }
    }

    fn end(&mut self, error: Option<io::Error>) {
        let state = &self.transport.state;
        // From here on nothing is written and nobody is told anything.
        *state.life.borrow_mut() = Life::Lost(None);
        if let Some(protocol) = state.protocol() {
            let _ = call(&self.transport, "connection_lost", || protocol.connection_lost(error));
        }
        (self.asked, self.hangup, self.ending) = (None, None, None);
        self.below = None;
        state.leave();
    }

    /// Does one thing if there is one to be done.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.transport.state.clone();
        state.pump.register_for(cx, CONNECTION);
        if state.is_lost() {
            return Poll::Pending;
        }
        if state.is_moved.take() {
            // What is received and not given to the protocol stays with what it came from.
            (self.asked, self.below) = (None, state.below());
        }
        let Some(below) = self.below.clone() else { return Poll::Pending };
        // Reading first: of a connection that is gone it tells more than writing.
        if self.step_reading(&below, cx).is_ready() {
            return Poll::Ready(());
        }
        if let Some(error) = below.send_error() {
            state.force_close(Some(error));
            return Poll::Pending;
        }
        match self.step_writing(&below, cx) {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(error)) => {
                state.force_close(Some(error));
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Looks whether enough was sent for what waits for that.
    fn step_writing(&mut self, below: &Below, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = self.transport.state.clone();
        if let Below::Stream(_) = below {
            // A stream wakes one who sends: that is the file now, whose end wakes this task.
            if state.files.get() > 0 {
                return Poll::Pending;
            }
            if self.ending.is_none()
                && below.queued() > 0
                && let Poll::Ready(Err(error)) = below.poll_flush(cx, 0)
            {
                return Poll::Ready(Err(error));
            }
        }
        if state.is_writing_paused.get()
            && matches!(below.poll_flush(cx, state.limits.get().low), Poll::Ready(Ok(())))
        {
            self.resume_writing();
            return Poll::Ready(Ok(()));
        }
        let (is_closing, is_eof) = (state.is_closing(), state.eof.get() == Eof::Asked);
        if !(is_closing || is_eof) || state.files.get() > 0 {
            return Poll::Pending;
        }
        if !below.is_idle() || self.ending.is_some() {
            let ending = self.ending.get_or_insert_with(|| match below {
                Below::Stream(carrier) if is_eof => carrier.clone().send_eof(),
                Below::Stream(carrier) => carrier.clone().close(),
                Below::Socket(..) => below.sent(),
            });
            let ended = ready!(ending.as_mut().poll(cx));
            self.ending = None;
            ended?;
        }
        if is_eof {
            state.eof.set(Eof::Sent);
            if let Below::Socket(shared, _) = below {
                // It fails if the connection is gone, which is told otherwise.
                let _ = shared.shut_now();
            }
            return Poll::Ready(Ok(()));
        }
        if state.is_writing_paused.get() {
            self.resume_writing();
        }
        self.end(None);
        Poll::Ready(Ok(()))
    }

    fn resume_writing(&self) {
        self.transport.state.is_writing_paused.set(false);
        if let Some(protocol) = self.transport.state.protocol() {
            let _ = call(&self.transport, "resume_writing", || protocol.resume_writing());
        }
    }

    /// Gives the protocol what came.
    fn step_reading(&mut self, below: &Below, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.transport.state.clone();
        if state.is_switched.take() {
            self.asked = None; // its bytes stay with the stream
        }
        let protocol = state.protocol().filter(|_| !state.is_deaf());
        let Some(protocol) = protocol else {
            below.watch(cx);
            return Poll::Pending;
        };
        let received = match (below, protocol) {
            (Below::Socket(shared, Way::Out { is_watched: true }), _) => {
                ready!(self.poll_hangup(shared, cx))
            }
            (Below::Socket(_, Way::Out { is_watched: false }), _) => {
                below.watch(cx);
                return Poll::Pending;
            }
            (Below::Socket(shared, _), AnyProtocol::Buffered(protocol)) => {
                ready!(self.receive_into(shared, &*protocol, cx))
            }
            (_, protocol) => {
                let received = match state.rest.take() {
                    Some(rest) => Ok(Some(rest)),
                    None => ready!(below.poll_receive(cx)),
                };
                match received {
                    Ok(Some(data)) => self.give(&protocol, data),
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

    /// Receives straight into a buffer of the protocol.
    fn receive_into(
        &mut self,
        shared: &Rc<Shared>,
        protocol: &dyn BufferedProtocol,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let transport = &self.transport;
        let buffer = || buffer_of(transport, protocol);
        let received = ready!(shared.poll_receive_buf(cx, &mut self.asked, buffer));
        Poll::Ready(match received {
            Ok(Some((count, buffer))) => {
                call_fatal(transport, "buffer_updated", || protocol.buffer_updated(buffer, count))
            }
            Ok(None) => self.eof(),
            Err(error) => Err(error),
        })
    }

    /// Gives the protocol these bytes, as many as fit into its buffer if it has one.
    fn give(&self, protocol: &AnyProtocol, mut data: Chunk) -> io::Result<()> {
        let transport = &self.transport;
        let protocol = match protocol {
            AnyProtocol::Stream(protocol) => {
                return call_fatal(transport, "data_received", || protocol.data_received(data));
            }
            AnyProtocol::Buffered(protocol) => protocol,
        };
        let mut buffer = buffer_of(transport, &**protocol)?;
        buffer.clear();
        let count = data.len().min(buffer.capacity());
        buffer.extend_from_slice(&data[..count]);
        if count < data.len() {
            data.advance(count);
            transport.state.rest.set(Some(data));
        }
        call_fatal(transport, "buffer_updated", || protocol.buffer_updated(buffer, count))
    }

    /// The peer sends no more.
    fn eof(&self) -> io::Result<()> {
        let state = &self.transport.state;
        // The kernel tells once why a connection is gone. If a send was told, this is no end that the peer meant.
        if let Some(error) = self.below.as_ref().and_then(Below::send_error) {
            return Err(error);
        }
        let Some(protocol) = state.protocol() else { return Ok(()) };
        let keeps_open = call_fatal(&self.transport, "eof_received", || protocol.eof_received())?;
        // What has no half-closed state ends as a whole.
        if keeps_open && self.transport.can_write_eof() {
            state.is_at_eof.set(true);
        } else {
            state.close();
        }
        Ok(())
    }

    /// Ready when nobody reads any more what goes into this pipe.
    fn poll_hangup(&mut self, shared: &Rc<Shared>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wait = || Ask::new(shared.driver(), WaitForBytes::new(shared.clone()), CONNECTION);
        let (_, op) = ready!(Pin::new(self.hangup.get_or_insert_with(wait)).poll(cx));
        self.hangup = None;
        op.end();
        if shared.outbound.bytes() > 0 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.transport.state.close();
        Poll::Ready(Ok(()))
    }
}

fn buffer_of(transport: &Transport, protocol: &dyn BufferedProtocol) -> io::Result<BytesMut> {
    match call_fatal(transport, "get_buffer", || protocol.get_buffer(None))? {
        buffer if buffer.capacity() == 0 => {
            Err(io::Error::other("get_buffer returned a buffer without room"))
        }
        buffer => Ok(buffer),
    }
}

impl Drop for Pump {
    /// The loop was closed under it.
    fn drop(&mut self) {
        if !self.transport.state.is_over() {
            self.transport.state.leave();
        }
    }
}
