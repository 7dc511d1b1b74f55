//! Passing descriptors to another process, or to a part of this one, with the bytes of a UNIX stream.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::buf::{Chunk, IoBuf, IoBufMut};
use crate::driver::Aftermath;
use crate::error::{Busy, Failed};
use crate::net::messages::Messages;
use crate::net::shared::{Claim, Shared};
use crate::net::{Message, UnixDatagram, UnixDatagrams, UnixSeqpacket, UnixStream};
use crate::op::Descriptor;
use crate::op::net::{
    Arrival, Envelope, Incoming, IncomingTarget, ReceiveMessageInto, ReceiveTarget, SendFds, WithFds,
};
use crate::runtime::wait::outcome;
use crate::sys::message::{Layout, control_len};

/// The most descriptors that go with one message (`SCM_MAX_FD`).
const FDS_MAX: usize = 253;

/// The buffer and the descriptors that were sent, or not: both come back.
pub type FdsSent<B> = Result<(B, Vec<OwnedFd>), Failed<(B, Vec<OwnedFd>)>>;

/// What a stream keeps that expects descriptors.
#[derive(Default)]
pub(crate) struct Expected {
    /// They came with the first bytes that were received and that nobody fetched.
    unfetched: RefCell<Vec<OwnedFd>>,
}

impl Expected {
    /// Whoever takes the bytes does not want them.
    pub(crate) fn close_unfetched(&self) {
        drop(self.unfetched.take());
    }
}

/// Checks how many descriptors shall go with one message.
fn check_count(fds: &[OwnedFd]) -> io::Result<()> {
    let problem = match fds.len() {
        0 => "there are no descriptors to send",
        1..=FDS_MAX => return Ok(()),
        _ => "at most 253 descriptors are sent at once",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

impl Shared {
    async fn receive_fds<B: IoBufMut>(
        self: &Rc<Self>,
        mut buf: B,
        max: usize,
    ) -> Result<(usize, Vec<OwnedFd>, B), Failed<B>> {
        if self.receive_claimed.replace(true) {
            return Err(Failed::new(Busy::new("receiving from").into(), buf, 0));
        }
        let _claim = Claim(self);
        if buf.capacity() == 0 {
            return Ok((0, Vec::new(), buf));
        }
        let expected = self.expected.get_or_init(Box::default);
        if let Err(error) = poll_fn(|cx| self.poll_stopped(cx)).await {
            return Err(Failed::new(error, buf, 0));
        }
        // They came with the first of the bytes that are here now.
        let mut fds = expected.unfetched.take();
        let copied = self.copy_inbound(&mut buf);
        if copied > 0 {
            fds.truncate(max);
            return Ok((copied, fds, buf));
        }
        match self.ended() {
            Some(Ok(())) => return Ok((0, Vec::new(), buf)),
            Some(Err(error)) => return Err(Failed::new(error, buf, 0)),
            None => {}
        }
        let layout =
            Layout { name: 0, control: if max == 0 { 0 } else { control_len(4 * max.min(FDS_MAX)) } };
        let single = ReceiveMessageInto::new(self.clone(), Box::new(Incoming::new(layout)), buf);
        let (result, op) = self.single(single).await;
        let (mut incoming, buf) = op.into_parts();
        match result.and_then(outcome) {
            Ok(count) => Ok((count as usize, incoming.take_fds(), buf)),
            Err(error) => Err(Failed::new(error, buf, 0)),
        }
    }
}

impl IncomingTarget for Shared {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn unfetched(&self, arrival: Arrival, after: &mut Aftermath) {
        if self.closed.get() || arrival.data.is_empty() {
            return;
        }
        self.inbound.push_first(arrival.data);
        if let Some(expected) = self.expected.get() {
            expected.unfetched.borrow_mut().extend(arrival.fds);
        }
        self.wake_receiver(after);
    }

    fn incoming_over(&self, result: i32, after: &mut Aftermath) {
        self.receive_into_over(result, after);
    }

    fn is_stream(&self) -> bool {
        true
    }
}

impl UnixStream {
    /// From now on descriptors may come with the bytes: those that come with what is not received by
    /// [`receive_fds`](Self::receive_fds) are closed, but nothing is received before it is asked for, as it is on other
    /// streams. The first `receive_fds` says so too; this is for a stream whose first bytes bring none.
    ///
    /// # Examples
    /// ```
    /// use proactor::net::UnixStream;
    /// use std::os::fd::OwnedFd;
    /// # fn main() -> std::io::Result<()> {
    /// proactor::run(async {
    ///     let (ours, theirs) = UnixStream::pair()?;
    ///     theirs.expect_fds();
    ///     ours.send("hello").await?;
    ///     assert_eq!(&theirs.receive().await?.unwrap()[..], b"hello");
    ///     let file = OwnedFd::from(std::fs::File::open("/dev/null")?);
    ///     ours.send_fds("a file", [file]).await?;
    ///     let (count, fds, text) = theirs.receive_fds(vec![0; 16], 1).await?;
    ///     assert_eq!((&text[..count], fds.len()), (&b"a file"[..], 1));
    ///     Ok::<_, std::io::Error>(())
    /// })
    /// # }
    /// ```
    pub fn expect_fds(&self) {
        self.shared.expected.get_or_init(Box::default);
        self.shared.stop_receiving();
    }

    /// Sends all of `buf`, which must not be empty, and `fds` with its first byte; gives both back. The receiver gets
    /// descriptors of its own, so these may be closed.
    ///
    /// # Cancel safety
    /// *May have happened*: dropped while it waits for earlier sends, nothing is sent; once begun, all of it is sent,
    /// unless the stream is closed. The descriptors are closed then.
    ///
    /// # Errors
    /// As [`send`](Self::send); `InvalidInput` without bytes, without descriptors, or with more than 253.
    ///
    /// # Kernel
    /// `IORING_OP_SENDMSG` (5.3) with `SCM_RIGHTS`; on epoll `sendmsg(2)`.
    ///
    /// # References
    /// [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)
    pub fn send_fds<B: IoBuf>(
        &self,
        buf: B,
        fds: impl IntoIterator<Item = OwnedFd>,
    ) -> impl Future<Output = FdsSent<B>> {
        let fds: Vec<OwnedFd> = fds.into_iter().collect();
        async move {
            let checked = match buf.is_empty() {
                true => Err(io::Error::new(io::ErrorKind::InvalidInput, "descriptors go with bytes")),
                false => check_count(&fds),
            };
            match checked {
                Ok(()) => self.shared.send(SendFds::new(self.shared.clone(), buf, fds)).await,
                Err(error) => Err(Failed::new(error, (buf, fds), 0)),
            }
        }
    }

    /// Completes with bytes, as [`receive_into`](Self::receive_into), and with the descriptors that came with them, at most
    /// `max`; more are closed. They are closed in child processes (`CLOEXEC`). 0 bytes: the peer sends no more.
    ///
    /// Bytes that [`receive`](Self::receive) took before anybody expected descriptors have lost theirs; see
    /// [`expect_fds`](Self::expect_fds).
    ///
    /// # Cancel safety
    /// *Nothing is lost*: bytes and descriptors that came too late stay with the stream. The buffer is gone.
    ///
    /// # Errors
    /// As [`receive_into`](Self::receive_into).
    ///
    /// # Kernel
    /// `IORING_OP_RECVMSG` (5.3); on epoll `recvmsg(2)`.
    pub fn receive_fds<B: IoBufMut>(
        &self,
        buf: B,
        max: usize,
    ) -> impl Future<Output = Result<(usize, Vec<OwnedFd>, B), Failed<B>>> + use<'_, B> {
        self.shared.receive_fds(buf, max)
    }
}

macro_rules! messages_with_fds {
    ($socket:ty, $next:expr, $received:ty, $map:expr) => {
        impl $socket {
            /// How many descriptors a message may bring from now on; more are closed, those of messages that came already
            /// too. 0, as in the beginning: the kernel closes them all.
            pub fn expect_fds(&self, max: usize) {
                self.messages.set_fds_max(max.min(FDS_MAX));
            }

            /// Sends a message and `fds` with it, and gives both back. The receiver gets descriptors of its own, so these may
            /// be closed.
            ///
            /// # Cancel safety
            /// *May have happened*: it is sent whole or not at all.
            ///
            /// # Errors
            /// As [`send`](Self::send); `InvalidInput` without descriptors, or with more than 253.
            ///
            /// # Kernel
            /// `IORING_OP_SENDMSG` (5.3) with `SCM_RIGHTS`; on epoll `sendmsg(2)`.
            pub fn send_fds<B: IoBuf>(
                &self,
                buf: B,
                fds: impl IntoIterator<Item = OwnedFd>,
            ) -> impl Future<Output = FdsSent<B>> {
                self.messages.send_fds(buf, fds.into_iter().collect())
            }

            /// Completes with the next message, and the descriptors that came with it, as many as are
            /// [expected](Self::expect_fds). They are closed in child processes (`CLOEXEC`).
            ///
            /// # Cancel safety
            /// *Nothing is lost*: messages and their descriptors stay with the socket.
            ///
            /// # Errors
            /// As [`receive`](Self::receive).
            pub fn receive_fds(&self) -> impl Future<Output = io::Result<$received>> + use<'_> {
                async move {
                    let message = $next(self).await?;
                    $map(message)
                }
            }
        }
    };
}

/// The bytes and the descriptors of a message that found room.
fn parts(message: Message<UnixDatagrams>) -> io::Result<(Chunk, Vec<OwnedFd>)> {
    match message.is_truncated() {
        true => Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
        false => Ok(message.into_parts()),
    }
}

messages_with_fds!(UnixDatagram, UnixDatagram::receive_message, (Chunk, Vec<OwnedFd>), parts);
messages_with_fds!(
    UnixSeqpacket,
    UnixSeqpacket::receive_message,
    Option<(Chunk, Vec<OwnedFd>)>,
    |message: Option<_>| message.map(parts).transpose()
);

impl Messages {
    async fn send_fds<B: IoBuf>(self: &Rc<Self>, buf: B, fds: Vec<OwnedFd>) -> FdsSent<B> {
        if let Err(error) = check_count(&fds) {
            return Err(Failed::new(error, (buf, fds), 0));
        }
        let what = WithFds { buf, fds };
        let mut control = Vec::new();
        what.write_rights(&mut control);
        let sending = self.send(what, |envelope: &mut Envelope| {
            envelope.control.extend_from_slice(&control);
            Ok(())
        });
        match sending.await {
            Ok(WithFds { buf, fds }) => Ok((buf, fds)),
            Err(Failed { error, buf: WithFds { buf, fds }, done, .. }) => {
                Err(Failed::new(error, (buf, fds), done))
            }
        }
    }
}
