//! From stream to stream.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;

use crate::error::{Busy, Failed, MayBeCancelled};
use crate::net::shared::Shared;
use crate::net::{Family, Stream};
use crate::op::net::{Relay, SendAll, WORTH, WaitForBytes, splice_may_kill};
use crate::runtime::scope::What;
use crate::runtime::wait::{Ask, outcome};

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

/// Sends all that comes, until its end.
async fn copy(from: &Rc<Shared>, to: &Rc<Shared>) -> Result<u64, Failed<()>> {
    let mut copied = 0;
    let failed =
        |copied: u64, error| Err(Failed::new(error, (), usize::try_from(copied).unwrap_or(usize::MAX)));
    if from.receive_claimed.replace(true) {
        return failed(0, Busy::new("receiving from").into());
    }
    let _claim = Claim(from);
    let mut may_splice = !Rc::ptr_eq(from, to) && !splice_may_kill(from.driver());
    loop {
        let mut chunk = match poll_fn(|cx| from.poll_receive(cx)).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(copied),
            Err(error) => return failed(copied, error),
        };
        let len = chunk.len();
        let is_much = len + from.inbound.bytes() >= MUCH;
        match to.send(SendAll::new(to.clone(), chunk)).await {
            Ok(_) => copied += len as u64,
            Err(unsent) => {
                // What was not sent can still be received.
                copied += unsent.done as u64;
                chunk = unsent.buf;
                chunk.advance(unsent.done);
                if !chunk.is_empty() {
                    from.inbound.push_first(chunk);
                }
                return failed(copied, unsent.error);
            }
        }
        while is_much && may_splice {
            match splice(from, to).await {
                Ok(Spliced { bytes, refused }) => {
                    copied += bytes;
                    may_splice = !refused;
                    if bytes < WORTH {
                        break;
                    }
                }
                Err(unsent) => return failed(copied + unsent.done as u64, unsent.error),
            }
        }
    }
}

struct Spliced {
    bytes: u64,
    refused: bool,
}

/// Waits for bytes and moves them; nothing if there are some that were received already, or no pipe.
async fn splice(from: &Rc<Shared>, to: &Rc<Shared>) -> Result<Spliced, Failed<()>> {
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
    let Some(relay) = Relay::new(from.clone(), to.clone()) else { return nothing };
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

impl<F: Family> Stream<F> {
    /// Sends to another stream all that comes here, until the peer sends no more; completes with the number of bytes.
    /// Neither stream is closed or shut down.
    ///
    /// What comes in bulk goes from socket to socket inside the kernel, the rest by receiving and sending. Other sends to
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
    /// `IORING_OP_SPLICE` (5.7) through a pipe that the loop keeps, on epoll splice(2); the sockets become non-blocking.
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
    ///     assert_eq!(inner.copy_to(&outer).await?, 5);
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
    pub fn copy_to<'a, G: Family>(
        &'a self,
        to: &'a Stream<G>,
    ) -> impl Future<Output = Result<u64, Failed<()>>> + use<'a, F, G> {
        copy(&self.shared, &to.shared)
    }
}
