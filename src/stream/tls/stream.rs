//! A TLS connection over any byte stream.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;

use crate::buf::{Chunk, IoBuf};
use crate::cancel::fail_after;
use crate::error::{Busy, Closed, Failed};
use crate::fs::File;
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check};
use crate::stream::link::Link;
use crate::stream::tls::kernel::KernelSend;
use crate::stream::tls::session::{PIECE, Session};
use crate::stream::{
    AsyncResource, Attributes, ByteReceiveStream, ByteSendStream, ByteStream, PollByteStream,
    TypedAttributeProvider,
};
use crate::sync::ResourceGuard;

const BYTES: What = What(&"bytes over TLS");

/// How long a close waits for the peer to say that it has ended too, where nothing else was asked for.
pub(crate) const FAREWELL: Duration = Duration::from_secs(30);

/// The peer closed the connection below without ending TLS: what it sent may have been cut off, by an attacker perhaps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, thiserror::Error)]
#[error("the connection was closed in the middle of TLS: something may be missing")]
#[non_exhaustive]
pub struct Truncated;

impl From<Truncated> for io::Error {
    fn from(error: Truncated) -> Self {
        Self::new(io::ErrorKind::UnexpectedEof, error)
    }
}

/// How receiving ended.
#[derive(Debug, Clone)]
enum End {
    /// The peer ended TLS, or, where that is no matter, the connection.
    Eof,
    Truncated,
    /// The peer broke the protocol.
    Failed(rustls::Error),
}

/// A TLS connection over a byte stream of any kind; see [`client`](Self::client) and [`server`](Self::server).
///
/// One task may receive while another sends; a second one in the same direction is told [`Busy`]. Dropping it drops the
/// stream below, without a farewell: the peer sees a connection that was cut off. [`aclose`](AsyncResource::aclose) says
/// goodbye first.
pub struct TlsStream<S> {
    pub(crate) link: Link<S>,
    pub(crate) session: RefCell<Session>,
    pub(crate) standard_compatible: bool,
    /// Decrypted, and not taken yet.
    plaintext: Cell<Option<Chunk>>,
    /// What came behind the end of TLS.
    rest: RefCell<VecDeque<Chunk>>,
    end: RefCell<Option<End>>,
    closed: Cell<bool>,
    /// How long a close may take.
    farewell: Duration,
    receiver: Waiter,
    /// A future waits, and others are told that it is busy.
    receive_claimed: Cell<bool>,
    sending: ResourceGuard,
    /// The kernel has the keys to send with.
    pub(crate) kernel: OnceCell<Box<KernelSend>>,
}

impl<S: ByteStream + 'static> TlsStream<S> {
    pub(crate) fn new(stream: S, session: Session, standard_compatible: bool, farewell: Duration) -> Self {
        Self {
            link: Link::new(stream),
            session: RefCell::new(session),
            standard_compatible,
            plaintext: Cell::default(),
            rest: RefCell::default(),
            end: RefCell::default(),
            closed: Cell::new(false),
            farewell,
            receiver: Waiter::new(),
            receive_claimed: Cell::new(false),
            sending: ResourceGuard::new("sending to"),
            kernel: OnceCell::new(),
        }
    }

    /// The wrapped stream. Bytes that are sent or received on it are missing in TLS; where the
    /// [kernel sends](crate::stream::tls::Wrap::kernel_send), bytes that are sent on it are part of it.
    pub fn get_ref(&self) -> &S {
        self.link.stream()
    }

    /// Goes on with new keys, and asks the peer to do so too: for connections that live long. TLS 1.3 only, which also does
    /// it by itself, in time for its cipher. In TLS 1.2 a connection has the same keys all its life, and with AES-GCM they
    /// are good for 2^24 records: then [`send`](ByteSendStream::send) fails.
    ///
    /// # Errors
    /// `InvalidData`, if the version of TLS knows no such thing; `Unsupported`, if the
    /// [kernel sends](crate::stream::tls::Wrap::kernel_send) and takes no new keys; those of
    /// [`send`](ByteSendStream::send).
    #[doc(alias = "key_update")]
    pub fn renew_keys(&self) -> io::Result<()> {
        self.check_send()?;
        if let Some((kernel, shared)) = self.kernel() {
            return self.renew_kernel_keys(kernel, shared);
        }
        self.session.borrow_mut().renew_keys()?;
        self.put_out().map(drop)
    }

    pub(crate) fn check_open(&self) -> io::Result<()> {
        if self.closed.get() { Err(Closed::new("the TLS stream").into()) } else { Ok(()) }
    }

    /// Gives what has to be sent to the stream below, and returns how much waits there.
    pub(crate) fn put_out(&self) -> io::Result<usize> {
        if let Some((kernel, shared)) = self.kernel() {
            return self.put_records(kernel, shared, false);
        }
        let mut output = Vec::new();
        self.session.borrow_mut().output(&mut output);
        self.link.write(output)
    }

    /// Decrypts what came from the stream below.
    pub(crate) fn take_in(&self, bytes: &[u8]) {
        let mut plaintext = Vec::with_capacity(bytes.len());
        // The verifiers and resolvers of the configuration are called in here; they are `Send`, so none has the stream.
        let fed = self.session.borrow_mut().feed(bytes, &mut plaintext);
        if !plaintext.is_empty() {
            let before = self.plaintext.replace(Some(Chunk::from(plaintext)));
            debug_assert!(before.is_none(), "more is received only when there is nothing left");
        }
        match fed {
            Ok(taken) => {
                if taken < bytes.len() {
                    self.rest.borrow_mut().push_back(Chunk::from(bytes[taken..].to_vec()));
                }
                if self.session.borrow().peer_has_ended() {
                    self.set_end(End::Eof);
                }
            }
            Err(error) => {
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
                self.set_end(End::Failed(inner.unwrap_or_else(|| rustls::Error::General(error.to_string()))));
            }
        }
        // A reply, or the alert that says why it is over. Where nothing can be sent, receiving goes on.
        let _ = self.put_out();
    }

    fn set_end(&self, end: End) {
        self.end.borrow_mut().get_or_insert(end);
    }

    /// How the stream ended, if it did.
    fn ended(&self) -> Option<io::Result<()>> {
        let end = self.end.borrow().clone()?;
        Some(match end {
            End::Eof => Ok(()),
            End::Truncated => Err(Truncated.into()),
            End::Failed(error) => Err(super::session::tls_error(error)),
        })
    }

    /// The stream below is at its end.
    fn was_cut_off(&self) {
        let handshaking = self.session.borrow().is_handshaking();
        self.set_end(if self.standard_compatible || handshaking { End::Truncated } else { End::Eof });
    }

    /// One step: more from the stream below.
    fn poll_input(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.link.poll_receive(cx))? {
            Some(chunk) => self.take_in(&chunk),
            None => self.was_cut_off(),
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.put_out()?;
            if let Some(Err(error)) = self.ended() {
                return Poll::Ready(Err(error));
            }
            if !self.session.borrow().is_handshaking() {
                // What the peer waits for still.
                return self.link.poll_flush(cx, 0);
            }
            ready!(self.poll_input(cx))?;
        }
    }

    /// The poll face of [`receive`](ByteReceiveStream::receive). Only the last task that polled is woken.
    ///
    /// # Errors
    /// As there, but for `Busy`.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        loop {
            if let Err(cancelled) = ready!(check(cx)) {
                self.receiver.clear();
                return Poll::Ready(Err(cancelled.into()));
            }
            self.check_open()?;
            if let Some(chunk) = self.plaintext.take() {
                return Poll::Ready(Ok(Some(chunk)));
            }
            if let Some(end) = self.ended() {
                return Poll::Ready(end.map(|()| None));
            }
            match self.poll_input(cx) {
                Poll::Ready(done) => done?,
                Poll::Pending => {
                    self.receiver.register_for(cx, BYTES);
                    return Poll::Pending;
                }
            }
        }
    }

    pub(crate) fn check_send(&self) -> io::Result<()> {
        self.check_open()?;
        if let Some(End::Failed(error)) = &*self.end.borrow() {
            return Err(super::session::tls_error(error.clone()));
        }
        Ok(())
    }

    /// Ready when at most `below` bytes are left to be sent.
    fn poll_room(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        self.check_send()?;
        self.link.poll_flush(cx, below)
    }

    /// Encrypts the first of these bytes and gives them to the stream below. Returns how many, and how much waits there.
    fn encrypt(&self, bytes: &[u8]) -> io::Result<(usize, usize)> {
        let mut output = Vec::new();
        let encrypted = self.session.borrow_mut().encrypt(bytes, &mut output);
        let queued = self.link.write(output)?;
        Ok((encrypted?, queued))
    }

    /// Encrypts and sends; `done` says how much of it was encrypted, and with that sent. The turn to send is the caller's.
    async fn send_all(&self, bytes: &[u8], done: &mut usize) -> io::Result<()> {
        let _waiting = Forget(&self.link.sender);
        while *done < bytes.len() {
            // Not more than one piece waits while the next one is encrypted.
            poll_fn(|cx| self.poll_room(cx, PIECE)).await?;
            *done += self.encrypt(&bytes[*done..])?.0;
        }
        poll_fn(|cx| self.poll_room(cx, 0)).await
    }

    /// Sends `count` bytes of `file` from `offset` on, or all up to its end: by reading and encrypting, or, where the
    /// [kernel sends](crate::stream::tls::Wrap::kernel_send), as a [`TcpStream`](crate::net::TcpStream::send_file) does.
    /// Gives the number of bytes sent.
    ///
    /// # Cancel safety
    /// *May have happened*: a part may have been sent. By the kernel, the end of that part may stay there until more is
    /// sent, or the stream closed; so may the end of a file that becomes shorter meanwhile.
    ///
    /// # Errors
    /// [`Busy`], while another task sends, as that one is told in the other case; if reading or sending fails.
    #[doc(alias = "sendfile")]
    pub fn send_file<'a>(
        &'a self,
        file: &'a File,
        offset: u64,
        count: Option<u64>,
    ) -> impl Future<Output = io::Result<u64>> + use<'a, S> {
        async move {
            let _sending = self.sending.enter()?; // nobody gets in between two pieces
            if let Some(kernel) = self.kernel()
                && let Some(sent) = self.send_file_by_kernel(kernel, file, offset, count).await?
            {
                return Ok(sent);
            }
            let (mut sent, mut buf) = (0, Vec::with_capacity(PIECE));
            loop {
                let left = count.map_or(u64::MAX, |count| count - sent);
                let (read, filled) = file.read_at(buf, offset + sent).await?;
                let mut filled: Vec<u8> = filled;
                filled.truncate(usize::try_from(left).map_or(read, |left| left.min(read)));
                if filled.is_empty() {
                    return Ok(sent);
                }
                sent += filled.len() as u64;
                buf = match self.kernel() {
                    Some(kernel) => self.send_by_kernel(kernel, filled).await?,
                    None => {
                        self.send_all(&filled, &mut 0).await?;
                        filled
                    }
                };
                buf.clear();
            }
        }
    }

    /// Where the kernel sends, it has room again then: see `SendRecord`.
    async fn end_sending(&self) -> io::Result<()> {
        self.session.borrow_mut().end();
        self.put_out()?;
        let _waiting = Forget(&self.link.sender);
        poll_fn(|cx| self.link.poll_flush(cx, 0)).await
    }

    /// Tells the peer that no more comes, and waits until it has said the same.
    async fn farewell(&self, takes_data: bool) -> io::Result<()> {
        self.end_sending().await?;
        loop {
            if self.plaintext.take().is_some() && !takes_data {
                let what = "the peer sent something before it ended TLS, which was not received";
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            if let Some(end) = self.ended() {
                return end;
            }
            poll_fn(|cx| self.poll_input(cx)).await?;
        }
    }

    /// Ends TLS on both sides, and gives the stream below, with what came on it behind the end of TLS.
    ///
    /// # Cancel safety
    /// *Data already received is lost*, and the stream below with it.
    ///
    /// # Errors
    /// `InvalidData`, if something came over TLS that was not received; `Unsupported`, if the
    /// [kernel sends](crate::stream::tls::Wrap::kernel_send); those of the streams. The stream below is lost.
    pub fn unwrap(self) -> impl Future<Output = io::Result<(S, Vec<Chunk>)>> {
        async move {
            if self.kernel().is_some() {
                let text = "the kernel makes TLS of what is sent here, and cannot be told to stop";
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
            if self.standard_compatible {
                self.farewell(false).await?;
            } else {
                self.end_sending().await?;
            }
            Ok((self.link.into_stream(), self.rest.into_inner().into()))
        }
    }
}

/// Nobody waits there any more, however it ended.
struct Forget<'a>(&'a Waiter);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// Closes the stream below also if whoever waits for that goes away.
struct CloseBelow<'a, S: ByteStream>(Option<&'a S>);

impl<S: ByteStream> Drop for CloseBelow<'_, S> {
    fn drop(&mut self) {
        if let Some(stream) = self.0 {
            // Begun and given up, it closes without waiting.
            let _ = pin!(stream.aclose()).poll(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl<S: ByteStream + 'static> AsyncResource for TlsStream<S> {
    /// Ends TLS, waits until the peer has ended it too, at most [so long](crate::stream::tls::Wrap::shutdown_timeout), and closes the stream below; what still
    /// comes is dropped. Where it is not [standard compatible](crate::stream::tls::Wrap::standard_compatible), it does not
    /// wait for the peer.
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        async move {
            if self.closed.replace(true) {
                return Ok(());
            }
            let mut below = CloseBelow(Some(self.get_ref()));
            self.receiver.wake();
            self.link.sender.wake();
            self.end_sender();
            let is_well = !matches!(*self.end.borrow(), Some(End::Failed(_) | End::Truncated));
            // A peer that takes nothing must not hold the stream: what is not done in time is given up, and `below`
            // closes without waiting.
            fail_after(self.farewell, async {
                let ended =
                    match (is_well && !self.session.borrow().is_handshaking(), self.standard_compatible) {
                        (false, _) => Ok(()),
                        (true, true) => self.farewell(true).await,
                        (true, false) => self.end_sending().await,
                    };
                let closed = self.get_ref().aclose().await;
                below.0 = None;
                ended.and(closed)
            })
            .await
        }
    }
}

impl<S: ByteStream + 'static> TypedAttributeProvider for TlsStream<S> {
    fn extra_attributes(&self) -> Attributes<'_> {
        super::attribute::of_session(
            self.get_ref().extra_attributes(),
            &self.session,
            self.standard_compatible,
            self.kernel.get().is_some(),
        )
    }
}

/// The claim of a future that receives, which ends however that does.
struct Claim<'a, S>(&'a TlsStream<S>);

impl<S> Drop for Claim<'_, S> {
    fn drop(&mut self) {
        self.0.receive_claimed.set(false);
        self.0.receiver.clear();
    }
}

impl<S: ByteStream + 'static> ByteReceiveStream for TlsStream<S> {
    /// Completes with the next bytes; with `None` when the peer has ended TLS.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: bytes stay with the stream.
    ///
    /// # Errors
    /// [`Truncated`], if the connection ended before TLS did, and that matters here; a [`rustls::Error`] inside of an
    /// `io::Error` of kind `InvalidData`, if the peer breaks the protocol; [`Busy`], while another task receives;
    /// [`Closed`]; those of the stream below.
    fn receive(&self) -> impl Future<Output = io::Result<Option<Chunk>>> {
        async move {
            if self.receive_claimed.replace(true) {
                return Err(Busy::new("receiving from").into());
            }
            let _claim = Claim(self);
            poll_fn(|cx| self.poll_receive(cx)).await
        }
    }
}

impl<S: ByteStream + 'static> ByteSendStream for TlsStream<S> {
    /// Encrypts and sends all of `buf`. Complete means that the stream below has taken it.
    ///
    /// # Cancel safety
    /// *May have happened*: what [`Failed::done`] counts is sent in any case, the rest is not.
    ///
    /// # Errors
    /// [`Busy`], while another task sends; [`Closed`]; `BrokenPipe`, after the sending side was ended, or when the keys of a
    /// TLS 1.2 connection [are used up](TlsStream::renew_keys); those of the stream below.
    fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> {
        async move {
            let _sending = match self.sending.enter() {
                Ok(sending) => sending,
                Err(busy) => return Err(Failed::new(busy.into(), buf, 0)),
            };
            if let Some(kernel) = self.kernel() {
                return self.send_by_kernel(kernel, buf).await;
            }
            let mut done = 0;
            match self.send_all(buf.as_slice(), &mut done).await {
                Ok(()) => Ok(buf),
                Err(error) => Err(Failed::new(error, buf, done)),
            }
        }
    }
}

impl<S: ByteStream + 'static> ByteStream for TlsStream<S> {
    /// Tells the peer that no more is sent; receiving goes on, if the peer does not end TLS too, as some do.
    fn send_eof(&self) -> impl Future<Output = io::Result<()>> {
        async move {
            self.check_send()?;
            let _sending = self.sending.enter()?;
            self.end_sending().await
        }
    }

    fn poll_faces(&self) -> Option<&dyn PollByteStream> {
        Some(self)
    }
}

impl<S: ByteStream + 'static> PollByteStream for TlsStream<S> {
    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        Self::poll_receive(self, cx)
    }

    fn write(&self, data: Bytes) -> io::Result<usize> {
        self.check_send()?;
        if data.is_empty() {
            return Ok(self.link.queued());
        }
        let _sending = self.sending.enter()?; // not into the middle of what another task sends
        if let Some(kernel) = self.kernel() {
            return self.write_by_kernel(kernel, data);
        }
        let (mut done, mut queued) = (0, self.put_out()?);
        while done < data.len() {
            let (count, waits) = self.encrypt(&data[done..])?;
            (done, queued) = (done + count, waits);
        }
        Ok(queued)
    }

    fn poll_flush(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        self.poll_room(cx, below)
    }
}

impl<S: fmt::Debug + ByteStream + 'static> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("stream", self.get_ref())
            .field("session", &self.session.borrow())
            .finish_non_exhaustive()
    }
}
