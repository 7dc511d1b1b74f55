//! Sending files over transports.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::error::{Busy, Closed, Failed, SendfileNotAvailable};
use crate::net::{FileSource, SendFile};
use crate::runtime::scope::What;
use crate::transport::below::{Below, Carrier, Way};
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

impl Sending {
    fn begin(state: Rc<State>) -> Self {
        state.files.set(state.files.get() + 1);
        Self(state)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.file_over();
    }
}

const ROOM: What = What(&"a peer to take a file");

/// What is read at a time.
const PIECE: usize = 64 << 10;

/// Sends a file without help of the kernel; `sent` says how much.
async fn read_and_write(
    state: &State,
    carrier: &dyn Carrier,
    file: FileSource,
    options: SendfileOptions,
    sent: &mut u64,
) -> io::Result<()> {
    let file = file.into_readable()?;
    let result = async {
        let mut buf = Vec::with_capacity(PIECE);
        loop {
            let left = options.count.map_or(u64::MAX, |count| count - *sent);
            let (read, filled) = file.read_at(buf, options.offset + *sent).await?;
            let mut filled: Vec<u8> = filled;
            filled.truncate(usize::try_from(left).map_or(read, |left| left.min(read)));
            if filled.is_empty() {
                return Ok(());
            }
            if state.course.is_lost() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let count = filled.len() as u64;
            carrier.faces().write(Bytes::from(filled))?;
            // From here on the stream sends it, whoever gives up.
            *sent += count;
            poll_fn(|cx| {
                if state.course.is_lost() {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                state.outsider.register_for(cx, ROOM);
                carrier.faces().poll_flush(cx, 0)
            })
            .await?;
            buf = Vec::with_capacity(PIECE);
        }
    };
    let result = result.await;
    file.set_position(options.offset + *sent);
    result
}

impl Transport {
    /// Sends a file, after what was written before; what is written meanwhile comes behind it. Completes with the number
    /// of bytes sent.
    ///
    /// The position of a [`std::fs::File`] is left behind what was sent, also after an error. Whether reading is paused
    /// makes no difference. [`close`](Self::close) and [`write_eof`](Self::write_eof) wait for the file,
    /// [`abort`](Self::abort) does not.
    ///
    /// Where the kernel cannot do it, over TLS for example, the file is read and written piece by piece, if
    /// [`fallback`](SendfileOptions::fallback) allows that.
    ///
    /// # Cancel safety
    /// *May have happened*, in part.
    ///
    /// # Errors
    /// [`Closed`] if the transport is closing already, `BrokenPipe` after [`write_eof`](Self::write_eof), `Unsupported` for
    /// a pipe, [`SendfileNotAvailable`] over TLS without fallback, [`Busy`] while another file goes over TLS, or TLS is being
    /// started; else as
    /// [`Stream::send_file`](crate::net::Stream::send_file).
    ///
    /// # Kernel
    /// As there.
    pub fn sendfile(&self, file: impl Into<FileSource>, options: SendfileOptions) -> Sendfile {
        let (state, file) = (self.state.clone(), file.into());
        Sendfile(Box::pin(async move {
            let refused = |error: io::Error| Failed::new(error, (), 0);
            if state.course.is_closing() {
                return Err(refused(Closed::new("the transport").into()));
            }
            let below = state.below().ok_or_else(|| refused(Busy::new("starting TLS on").into()))?;
            if state.eof.get() != Eof::No {
                return Err(refused(io::ErrorKind::BrokenPipe.into()));
            }
            let shared = match below {
                Below::Socket(shared, Way::Both) => shared,
                Below::Socket(..) => return Err(refused(io::ErrorKind::Unsupported.into())),
                Below::Stream(_) if !options.fallback => {
                    return Err(refused(SendfileNotAvailable::new(libc::EOPNOTSUPP).into()));
                }
                Below::Stream(_) if state.files.get() > 0 => {
                    return Err(refused(Busy::new("sending a file over").into()));
                }
                Below::Stream(carrier) => {
                    let _sending = Sending::begin(state.clone());
                    let mut sent = 0;
                    let result = read_and_write(&state, &*carrier, file, options, &mut sent).await;
                    let done = usize::try_from(sent).unwrap_or(usize::MAX);
                    return result.map(|()| sent).map_err(|error| Failed::new(error, (), done));
                }
            };
            let _sending = Sending::begin(state);
            let mut sending = SendFile::new(&shared, file).offset(options.offset).fallback(options.fallback);
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
