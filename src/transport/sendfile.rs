//! Sending files over transports.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::error::{Closed, Failed};
use crate::net::{FileSource, SendFile};
use crate::transport::handle::{Eof, State, Transport};

/// Which part of a file [`Transport::sendfile`] sends, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SendfileOptions {
    /// From where in the file. Default: its beginning.
    pub offset: u64,
    /// How many bytes, if the file has so many. Default: up to its end.
    pub count: Option<u64>,
    /// Whether a file that the kernel cannot send by itself is read and sent instead. Default: yes.
    pub fallback: bool,
}

impl Default for SendfileOptions {
    fn default() -> Self {
        Self { offset: 0, count: None, fallback: true }
    }
}

/// A file that is being sent: the transport is not closed under it.
struct Sending(Rc<State>);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.files.set(self.0.files.get() - 1);
        self.0.pump.wake();
    }
}

impl Transport {
    /// Sends a file, after what was written before; what is written meanwhile comes behind it. Completes with the number
    /// of bytes sent.
    ///
    /// The position of a [`std::fs::File`] is left behind what was sent, also after an error. Whether reading is paused
    /// makes no difference. [`close`](Self::close) and [`write_eof`](Self::write_eof) wait for the file,
    /// [`abort`](Self::abort) does not.
    ///
    /// # Cancel safety
    /// *May have happened*, in part.
    ///
    /// # Errors
    /// [`Closed`] if the transport is closing already, `BrokenPipe` after [`write_eof`](Self::write_eof); else as
    /// [`Stream::send_file`](crate::net::Stream::send_file).
    ///
    /// # Kernel
    /// As there.
    pub fn sendfile(&self, file: impl Into<FileSource>, options: SendfileOptions) -> Sendfile {
        let (state, file) = (self.state.clone(), file.into());
        Sendfile(Box::pin(async move {
            let refused = |error: io::Error| Failed::new(error, (), 0);
            let stream = state.stream().filter(|_| !state.is_closing());
            let stream = stream.ok_or_else(|| refused(Closed::new("the transport").into()))?;
            if state.eof.get() != Eof::No {
                return Err(refused(io::ErrorKind::BrokenPipe.into()));
            }
            state.files.set(state.files.get() + 1);
            let _sending = Sending(state);
            let mut sending = SendFile::new(&stream, file).offset(options.offset).fallback(options.fallback);
            if let Some(count) = options.count {
                sending = sending.count(count);
            }
            sending.await
        }))
    }
}

/// The future of [`Transport::sendfile`].
#[must_use = "futures do nothing unless awaited"]
pub struct Sendfile(Pin<Box<dyn Future<Output = Result<u64, Failed<()>>>>>);

impl Future for Sendfile {
    type Output = Result<u64, Failed<()>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Sendfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sendfile").finish_non_exhaustive()
    }
}
