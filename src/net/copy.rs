//! From stream to stream, from and to pipes.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::buf::Chunk;
use crate::error::{Busy, Failed, MayBeCancelled};
use crate::net::outbound::Sending;
use crate::net::shared::Shared;
use crate::net::{Family, PipeReader, PipeWriter, ReceiveHalf, SendHalf, Stream};
use crate::op::net::{Medium, ReceiveTarget, Relay, SendAll, WORTH, WaitForBytes, splice_may_kill};
use crate::runtime::scope::What;
use crate::runtime::wait::{Ask, outcome};
use crate::stream::BoxFuture;

/// How much has to wait, or to come at a time, before it goes by splices.
const MUCH: usize = WORTH as usize;

/// Ends the claim, however the copying ends. An operation that is still on its way has the receiving side until it is
/// over.
struct Claim<'a>(&'a Shared);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.forget_receiver();
    }
}

/// Whether the kernel can move bytes from one to the other without making anybody wait: regular files would, and what
/// other processes share would have to be changed.
fn may_splice(from: &Rc<Shared>, to: &Rc<Shared>) -> bool {
    let can = |shared: &Shared| matches!(ReceiveTarget::medium(shared), Medium::Socket | Medium::Pipe);
    !Rc::ptr_eq(from, to) && can(from) && can(to) && !splice_may_kill(from.driver())
}

/// Sends what comes, until its end or until there were `left` bytes.
async fn copy(from: &Rc<Shared>, to: &Rc<Shared>, mut left: u64) -> Result<u64, Failed<()>> {
    let mut copied = 0;
    let failed =
        |copied: u64, error| Err(Failed::new(error, (), usize::try_from(copied).unwrap_or(usize::MAX)));
    if from.receive_claimed.replace(true) {
        return failed(0, Busy::new("receiving from").into());
    }
    let _claim = Claim(from);
    let mut may_splice = may_splice(from, to);
    // What came without a pause.
    let mut run = 0;
    while left > 0 {
        let mut chunk = match poll_fn(|cx| from.poll_receive(cx)).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => return failed(copied, error),
        };
        if let Ok(most) = usize::try_from(left)
            && most < chunk.len()
        {
            let first = chunk.split_to(most);
            from.inbound.push_first(std::mem::replace(&mut chunk, first));
        }
        let len = chunk.len();
        run = if from.was_told_of_more() { run + len } else { 0 };
        let is_much = run.max(len) + from.inbound.bytes() >= MUCH;
        match send(from, to, chunk).await {
            Ok(()) => {
                copied += len as u64;
                left -= len as u64;
            }
            Err(unsent) => {
                // What was not sent can still be received.
                copied += unsent.done as u64;
                if let Some(mut chunk) = unsent.buf {
                    chunk.advance(unsent.done);
                    if !chunk.is_empty() {
                        from.inbound.push_first(chunk);
                    }
                }
                return failed(copied, unsent.error);
            }
        }
        while is_much && may_splice && left > 0 {
            match splice(from, to, left).await {
                Ok(Spliced { bytes, refused }) => {
                    copied += bytes;
                    left -= bytes;
                    may_splice = !refused;
                    if bytes < WORTH {
                        break;
                    }
                }
                Err(unsent) => return failed(copied + unsent.done as u64, unsent.error),
            }
        }
    }
    Ok(copied)
}

/// A chunk on its way. Dropped while it waits for its turn, it can still be received.
struct Departing<'a> {
    from: &'a Shared,
    sending: Sending<'a, SendAll<Shared, Chunk>>,
}

impl Drop for Departing<'_> {
    fn drop(&mut self) {
        if let Some(chunk) = self.sending.take_back()
            && self.from.check_receive().is_ok()
        {
            self.from.inbound.push_first(chunk);
        }
    }
}

/// Sends one chunk. Whoever closes the source ends that too, and the chunk with it.
async fn send(from: &Rc<Shared>, to: &Rc<Shared>, chunk: Chunk) -> Result<(), Failed<Option<Chunk>>> {
    let mut departing = Departing { from, sending: to.send(SendAll::new(to.clone(), chunk)) };
    poll_fn(|cx| {
        if let Poll::Ready(sent) = Pin::new(&mut departing.sending).poll(cx) {
            return Poll::Ready(sent.map(drop).map_err(|unsent| {
                let stopped =
                    if unsent.error.is_cancelled() { from.was_stopped(-libc::ECANCELED) } else { None };
                match stopped {
                    Some(closed) => Failed::new(closed, None, unsent.done),
                    None => Failed::new(unsent.error, Some(unsent.buf), unsent.done),
                }
            }));
        }
        // Whoever closes wakes who waits there, and then waits there himself.
        let Err(closed) = from.check_receive() else {
            from.receiver.register(cx);
            return Poll::Pending;
        };
        let Some(key) = departing.sending.key() else {
            return Poll::Ready(Err(Failed::new(closed, None, 0)));
        };
        to.driver().cancel(key);
        Poll::Pending
    })
    .await
}

struct Spliced {
    bytes: u64,
    refused: bool,
}

/// Waits for bytes and moves them; nothing if there are some that were received already, or no pipe.
async fn splice(from: &Rc<Shared>, to: &Rc<Shared>, left: u64) -> Result<Spliced, Failed<()>> {
    let stop = |error| Failed::new(error, (), 0);
    let nothing = Ok(Spliced { bytes: 0, refused: false });
    poll_fn(|cx| from.poll_stopped(cx)).await.map_err(stop)?;
    if from.inbound.bytes() > 0 {
        return nothing;
    }
    let mut wait = Ask::new(from.driver(), WaitForBytes::new(from.clone()), What(&"bytes from a peer"));
    let (result, wait) = poll_fn(|cx| {
        let polled = Pin::new(&mut wait).poll(cx);
        from.note_single(wait.key());
        polled
    })
    .await;
    wait.end();
    from.was_stopped(result).map_or_else(|| outcome(result), Err).map_err(stop)?;
    let Some(relay) = Relay::new(from.clone(), to.clone(), left) else { return nothing };
    let mut sending = to.send(relay);
    let relayed = poll_fn(|cx| {
        let polled = Pin::new(&mut sending).poll(cx);
        from.note_single(sending.key());
        polled
    });
    match relayed.await {
        Ok(relayed) => Ok(Spliced { bytes: relayed.bytes, refused: relayed.is_refused }),
        Err(failed) => {
            let stopped = if failed.error.is_cancelled() { from.was_stopped(-libc::ECANCELED) } else { None };
            Err(Failed::new(stopped.unwrap_or(failed.error), (), failed.buf.bytes as usize))
        }
    }
}

/// What [`copy_to`](Stream::copy_to) sends to: made from a reference to a stream, to its sending half, or to a pipe.
#[derive(Debug, Clone, Copy)]
pub struct CopyTarget<'a> {
    shared: &'a Rc<Shared>,
}

impl<'a, F: Family> From<&'a Stream<F>> for CopyTarget<'a> {
    fn from(stream: &'a Stream<F>) -> Self {
        Self { shared: &stream.shared }
    }
}

impl<'a, F: Family> From<&'a SendHalf<F>> for CopyTarget<'a> {
    fn from(half: &'a SendHalf<F>) -> Self {
        Self { shared: &half.shared }
    }
}

impl<'a> From<&'a PipeWriter> for CopyTarget<'a> {
    fn from(writer: &'a PipeWriter) -> Self {
        Self { shared: &writer.shared }
    }
}

/// The future of [`copy_to`](Stream::copy_to), and what it is told before it is first polled.
#[must_use = "futures do nothing unless awaited"]
pub struct CopyTo<'a> {
    from: &'a Rc<Shared>,
    to: &'a Rc<Shared>,
    count: Option<u64>,
    copying: Option<BoxFuture<'a, Result<u64, Failed<()>>>>,
}

impl<'a> CopyTo<'a> {
    fn new(from: &'a Rc<Shared>, to: CopyTarget<'a>) -> Self {
        Self { from, to: to.shared, count: None, copying: None }
    }

    /// At most so many bytes; the next ones can still be received. Default: all that comes.
    pub fn count(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }
}

impl Future for CopyTo<'_> {
    type Output = Result<u64, Failed<()>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (from, to, left) = (self.from, self.to, self.count.unwrap_or(u64::MAX));
        self.copying.get_or_insert_with(|| Box::pin(copy(from, to, left))).as_mut().poll(cx)
    }
}

impl fmt::Debug for CopyTo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyTo").field("count", &self.count).finish_non_exhaustive()
    }
}

impl<F: Family> Stream<F> {
    /// Sends to another stream, or into a pipe, all that comes here, until the peer sends no more, or a
    /// [count](CopyTo::count) of bytes; completes with the number of bytes. Neither of the two is closed or shut down.
    ///
    /// What comes in bulk goes from one to the other inside the kernel, the rest by receiving and sending. Other sends to
    /// `to` find their place in between.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: what came and was not sent can still be received. Cut short by a cancel of its scope, the
    /// error has the exact number of bytes that were sent.
    ///
    /// # Errors
    /// What receiving says, or sending, or [`Busy`] while another task receives; [`Failed::done`] bytes were sent.
    ///
    /// # Kernel
    /// `IORING_OP_SPLICE` (5.7), between two sockets through a pipe that the loop keeps, on epoll splice(2); the sockets
    /// become non-blocking.
    ///
    /// # Examples
    /// ```
    /// use proactor::net::UnixStream;
    /// # fn main() -> std::io::Result<()> {
    /// proactor::run(async {
    ///     let (client, inner) = UnixStream::pair()?;
    ///     let (outer, server) = UnixStream::pair()?;
    ///     client.send("hello").await?;
    ///     client.shutdown_write().await?;
    ///     assert_eq!(inner.copy_to(&outer).count(2).await?, 2);
    ///     assert_eq!(inner.copy_to(&outer).await?, 3);
    ///     assert_eq!(&server.receive().await?.expect("bytes")[..], b"hello");
    ///     Ok::<_, std::io::Error>(())
    /// })
    /// # }
    /// ```
    ///
    /// # References
    /// [splice(2)](https://man7.org/linux/man-pages/man2/splice.2.html)
    #[doc(alias = "splice")]
    #[doc(alias = "forward")]
    pub fn copy_to<'a>(&'a self, to: impl Into<CopyTarget<'a>>) -> CopyTo<'a> {
        CopyTo::new(&self.shared, to.into())
    }
}

impl<F: Family> ReceiveHalf<F> {
    /// As [`Stream::copy_to`].
    ///
    /// # Errors
    /// As there.
    pub fn copy_to<'a>(&'a self, to: impl Into<CopyTarget<'a>>) -> CopyTo<'a> {
        CopyTo::new(&self.shared, to.into())
    }
}

impl PipeReader {
    /// Sends all that comes out of the pipe to a stream, or into another pipe, as [`Stream::copy_to`].
    ///
    /// # Cancel safety
    /// *Nothing is lost*: what came and was not sent can still be received.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Kernel
    /// `IORING_OP_SPLICE` (5.7) from one to the other, on epoll splice(2). From and to regular files, and what other
    /// processes share, by receiving and sending.
    ///
    /// # Examples
    /// ```
    /// use proactor::net::{UnixStream, pipe};
    /// # fn main() -> std::io::Result<()> {
    /// proactor::run(async {
    ///     let (reader, writer) = pipe().await?;
    ///     let (ours, theirs) = UnixStream::pair()?;
    ///     writer.send("hello").await?;
    ///     drop(writer);
    ///     assert_eq!(reader.copy_to(&ours).await?, 5);
    ///     assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"hello");
    ///     Ok::<_, std::io::Error>(())
    /// })
    /// # }
    /// ```
    #[doc(alias = "splice")]
    pub fn copy_to<'a>(&'a self, to: impl Into<CopyTarget<'a>>) -> CopyTo<'a> {
        CopyTo::new(&self.shared, to.into())
    }
}
