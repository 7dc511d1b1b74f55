//! What moves a connection: receives and gives to the protocol, looks after what is sent.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;

use crate::buf::Chunk;
use crate::net::shared::Shared;
use crate::op::net::{ReceiveInto, WaitForBytes};
use crate::runtime::scope::What;
use crate::runtime::wait::Ask;
use crate::stream::BoxFuture;
use crate::sync::Event;
use crate::transport::below::{Below, Way};
use crate::transport::course::{Course, Moved, is_made, run};
use crate::transport::handle::{Eof, State, Transport};
use crate::transport::protocol::{AnyProtocol, BufferedProtocol};
use crate::transport::report::{call, call_fatal};

/// Starts a transport; complete when the protocol was told that the connection is made.
pub(super) async fn start(below: Below, protocol: AnyProtocol) -> io::Result<Transport> {
    let made = Event::new();
    let transport = begin(below, protocol, Some(made.clone()));
    is_made(made, || transport.abort()).await?;
    Ok(transport)
}

/// Starts a transport. The protocol is told of it in the next turn.
pub(super) fn begin(below: Below, protocol: AnyProtocol, made: Option<Event>) -> Transport {
    let transport = Transport { state: State::new(below.clone(), protocol) };
    let connection = Connection {
        transport: transport.clone(),
        below: Some(below),
        asked: None,
        hangup: None,
        ending: None,
    };
    run(connection, made);
    transport
}

struct Connection {
    transport: Transport,
    /// As in the state of the transport.
    below: Option<Below>,
    /// The receive into a buffer of the protocol.
    asked: Option<Ask<ReceiveInto<Shared, BytesMut>>>,
    /// The wait for the reader of a pipe to go away.
    hangup: Option<Ask<WaitForBytes<Shared>>>,
    /// What has to be done before the end, of writing or of everything.
    ending: Option<BoxFuture<'static, io::Result<()>>>,
}

impl Moved for Connection {
    const WHAT: What = What(&"a connection of a transport");

    fn course(&self) -> &Course {
        &self.transport.state.course
    }

    fn force_close(&self, error: Option<io::Error>) {
        self.transport.state.force_close(error);
    }

    fn connection_made(&mut self) {
        if let Some(protocol) = self.transport.state.protocol() {
            let _ = call(&self.transport, "connection_made", || protocol.connection_made(&self.transport));
        }
    }

    fn connection_lost(&mut self, error: Option<io::Error>) {
        if let Some(protocol) = self.transport.state.protocol() {
            let _ = call(&self.transport, "connection_lost", || protocol.connection_lost(error));
        }
    }

    fn leave(&mut self) {
        (self.asked, self.hangup, self.ending) = (None, None, None);
        self.below = None;
        self.transport.state.leave();
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.transport.state.clone();
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
}

impl Connection {
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
        if state.course.is_writing_paused.get()
            && matches!(below.poll_flush(cx, state.course.limits.get().low), Poll::Ready(Ok(())))
        {
            self.resume_writing();
            return Poll::Ready(Ok(()));
        }
        let (is_closing, is_eof) = (state.course.is_closing(), state.eof.get() == Eof::Asked);
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
            // What the protocol wrote meanwhile, told to go on while the transport closes, goes out as well.
            if matches!(below, Below::Socket(..)) && !below.is_idle() {
                return Poll::Ready(Ok(()));
            }
        }
        if is_eof {
            state.eof.set(Eof::Sent);
            if let Below::Socket(shared, _) = below {
                // It fails if the connection is gone, which is told otherwise.
                let _ = shared.shut_now();
            }
            return Poll::Ready(Ok(()));
        }
        if state.course.is_writing_paused.get() {
            self.resume_writing();
        }
        self.end(None);
        Poll::Ready(Ok(()))
    }

    fn resume_writing(&self) {
        self.transport.state.course.is_writing_paused.set(false);
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
        let wait = || Ask::new(shared.driver(), WaitForBytes::new(shared.clone()), Self::WHAT);
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
