//! The stream below: asked by polling, and never left in the middle of a send.
//!
//! Records must reach the peer whole and in order, so no send may be dropped half-way. A stream with poll faces keeps
//! what is to be sent by itself; for any other one the futures of its operations are kept here, and whoever needs
//! progress polls them on.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;

use crate::buf::Chunk;
use crate::error::{Failed, MayBeCancelled};
use crate::runtime::here;
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check};
use crate::stream::ByteStream;
use crate::stream::bytes::BoxFuture;

type Receiving = BoxFuture<'static, io::Result<Option<Chunk>>>;
type Sending = BoxFuture<'static, Result<Bytes, Failed<Bytes>>>;

const ROOM: What = What(&"a peer to take what is sent over TLS");

/// The two tasks that may have to go on with a send: the one that sends, and the one that receives, whose replies have to
/// go out. Whoever polls a send wants to hear of its end, and takes that from nobody else.
#[derive(Default)]
struct Both(Mutex<[Option<Waker>; 2]>);

#[derive(Clone, Copy)]
enum Side {
    Sender,
    Receiver,
}

impl Both {
    fn register(&self, side: Side, waker: &Waker) {
        let waker = waker.clone(); // foreign code, so before the lock
        let old = self.0.lock().unwrap_or_else(PoisonError::into_inner)[side as usize].replace(waker);
        drop(old);
    }
}

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        let wakers = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

pub(crate) struct Link<S> {
    stream: Rc<S>,
    receiving: Cell<Option<Receiving>>,
    sending: Cell<Option<Sending>>,
    /// Who polls `sending`, and the waker that it is polled with.
    both: Arc<Both>,
    waker: Waker,
    /// Who waits until something was sent, to be told when this side closes the stream.
    pub(crate) sender: Waiter,
    /// Bytes of the send that is on its way.
    in_flight: Cell<usize>,
    /// What is to be sent behind that.
    queue: RefCell<Vec<u8>>,
    /// A send failed, of this kind: nothing more can be sent.
    failed: Cell<Option<io::ErrorKind>>,
}

impl<S: ByteStream + 'static> Link<S> {
    pub(crate) fn new(stream: S) -> Self {
        let both = Arc::<Both>::default();
        Self {
            stream: Rc::new(stream),
            receiving: Cell::default(),
            sending: Cell::default(),
            waker: both.clone().into(),
            both,
            sender: Waiter::new(),
            in_flight: Cell::new(0),
            queue: RefCell::default(),
            failed: Cell::new(None),
        }
    }

    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    #[cfg(feature = "tls")]
    pub(crate) fn into_stream(self) -> S {
        drop((self.receiving, self.sending));
        Rc::into_inner(self.stream).expect("only the futures that were just dropped used it too")
    }

    pub(crate) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        if let Some(faces) = self.stream.poll_faces() {
            return faces.poll_receive(cx);
        }
        // A reply goes out meanwhile. If that fails, the next send says so.
        if self.left() > 0 {
            let _ = self.poll_send(cx, 0, Side::Receiver);
        }
        loop {
            ready!(check(cx))?;
            let mut receiving = self.receiving.take().unwrap_or_else(|| {
                let stream = self.stream.clone();
                Box::pin(async move { stream.receive().await })
            });
            match receiving.as_mut().poll(cx) {
                Poll::Ready(Err(error)) if error.is_cancelled() => {} // for whoever polled it before
                Poll::Ready(received) => return Poll::Ready(received),
                Poll::Pending => {
                    self.receiving.set(Some(receiving));
                    return Poll::Pending;
                }
            }
        }
    }

    /// Queues bytes to be sent, and returns how many are queued now. With poll faces they are on their way at once.
    pub(crate) fn write(&self, bytes: impl Into<Bytes> + AsRef<[u8]>) -> io::Result<usize> {
        if let Some(faces) = self.stream.poll_faces() {
            return if bytes.as_ref().is_empty() { Ok(0) } else { faces.write(bytes.into()) };
        }
        self.check()?;
        self.queue.borrow_mut().extend_from_slice(bytes.as_ref());
        Ok(self.left())
    }

    /// How much is queued to be sent.
    pub(crate) fn queued(&self) -> usize {
        match self.stream.poll_faces() {
            Some(faces) => faces.write(Bytes::new()).unwrap_or(0),
            None => self.left(),
        }
    }

    fn check(&self) -> io::Result<()> {
        self.failed.get().map_or(Ok(()), |kind| Err(kind.into()))
    }

    /// How much is on its way, or waits.
    fn left(&self) -> usize {
        self.in_flight.get() + self.queue.borrow().len()
    }

    /// Ready when at most `below` bytes are left to be sent.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        let polled = match self.stream.poll_faces() {
            Some(faces) => faces.poll_flush(cx, below),
            None => self.poll_send(cx, below, Side::Sender),
        };
        match polled {
            Poll::Ready(_) => self.sender.clear(),
            Poll::Pending => self.sender.register_for(cx, ROOM),
        }
        polled
    }

    fn poll_send(&self, cx: &mut Context<'_>, below: usize, side: Side) -> Poll<io::Result<()>> {
        loop {
            self.check()?;
            if self.left() == 0 {
                return Poll::Ready(Ok(()));
            }
            ready!(check(cx))?;
            self.both.register(side, cx.waker());
            let mut sending = self.sending.take().unwrap_or_else(|| self.next_send());
            // It is nobody's: in the scope of a receiver it would end with the time that this one has.
            match here::in_no_scope(|| sending.as_mut().poll(&mut Context::from_waker(&self.waker))) {
                Poll::Ready(Ok(_)) => self.in_flight.set(0),
                Poll::Ready(Err(failed)) if failed.error.is_cancelled() => self.put_back(&failed),
                Poll::Ready(Err(failed)) => {
                    self.failed.set(Some(failed.error.kind()));
                    return Poll::Ready(Err(failed.error));
                }
                Poll::Pending => {
                    self.sending.set(Some(sending));
                    return if self.left() <= below { Poll::Ready(Ok(())) } else { Poll::Pending };
                }
            }
        }
    }

    fn next_send(&self) -> Sending {
        let bytes = std::mem::take(&mut *self.queue.borrow_mut());
        self.in_flight.set(bytes.len());
        let stream = self.stream.clone();
        Box::pin(async move { stream.send(Bytes::from(bytes)).await })
    }

    /// The stream was told to give up the send that was on its way: the rest goes first.
    fn put_back(&self, failed: &Failed<Bytes>) {
        self.in_flight.set(0);
        let rest = &failed.buf[failed.done.min(failed.buf.len())..];
        self.queue.borrow_mut().splice(..0, rest.iter().copied());
    }
}
