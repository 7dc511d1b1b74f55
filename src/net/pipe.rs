//! Pipes: anonymous ones, named ones, and the ends of those that others made.

use std::ffi::CString;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::buf::{Chunk, IoBuf, IoBufMut};
use crate::driver::{Driver, control};
use crate::error::{Closed, Failed};
use crate::net::Unix;
use crate::net::shared::Shared;
use crate::net::stream::Receive;
use crate::op::Descriptor;
use crate::op::fs::Open;
use crate::op::net::{Medium, SendAll, SendVectored, Short};
use crate::op::pipe::MakePipe;
use crate::runtime::scope::What;
use crate::runtime::wait::{Ask, cut, outcome};
use crate::runtime::{core, sleep};

/// How long opening waits between two looks for a reader; doubled each time, up to a limit.
const RETRY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(64));

/// Makes a pipe: what is sent at one end is received at the other.
///
/// # Cancel safety
/// *Nothing is lost.*
///
/// # Errors
/// If descriptors or memory are short.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Kernel
/// `IORING_OP_PIPE` (6.16), before that, and on epoll, `pipe2(2)`.
///
/// # Examples
/// ```
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let (reader, writer) = proactor::net::pipe().await?;
///     writer.send("hello").await?;
///     drop(writer);
///     assert_eq!(&reader.receive().await?.unwrap()[..], b"hello");
///     assert!(reader.receive().await?.is_none());
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
///
/// # References
/// [pipe(7)](https://man7.org/linux/man-pages/man7/pipe.7.html)
#[track_caller]
pub fn pipe() -> impl Future<Output = io::Result<(PipeReader, PipeWriter)>> {
    let driver = core::current().driver.clone();
    async move {
        control::ignore_broken_pipes();
        let (reader, writer) = if driver.makes_pipes() {
            let (result, op) = Ask::new(&driver, MakePipe::new(), What(&"a pipe")).await;
            outcome(result)?;
            op.into_made().expect("it succeeded")
        } else {
            control::pipe(driver.wants_nonblocking())?
        };
        let reader = PipeReader::of(&driver, reader, Medium::Pipe, false);
        Ok((reader, PipeWriter::of(&driver, writer, Medium::Pipe)))
    }
}

/// What can be made of a descriptor that others use too.
fn medium_of(fd: &OwnedFd) -> io::Result<Medium> {
    Ok(match control::file_kind(fd)? {
        libc::S_IFSOCK => Medium::Socket,
        libc::S_IFREG | libc::S_IFBLK => Medium::File,
        libc::S_IFDIR => return Err(io::Error::from_raw_os_error(libc::EISDIR)),
        _ => Medium::Pipe,
    })
}

/// The end of a pipe that bytes come out of; or a terminal, another device, or a regular file, read where it stands.
///
/// One task may receive; a second one is told [`Busy`](crate::Busy). Dropping it closes it: who writes is told
/// `BrokenPipe` then.
pub struct PipeReader {
    pub(crate) shared: Rc<Shared>,
}

/// The end of a pipe that bytes go into; or a terminal, another device, or a regular file, written where it stands.
///
/// Several tasks may send; each send is written as a whole. Dropping it closes it, and drops what was queued; the reader
/// receives the end when all writers are closed. [`close`](Self::close) sends first.
pub struct PipeWriter {
    pub(crate) shared: Rc<Shared>,
}

impl PipeReader {
    pub(crate) fn of(driver: &Rc<Driver>, fd: OwnedFd, medium: Medium, awaits_peer: bool) -> Self {
        let descriptor = Descriptor::new(driver, fd);
        Self { shared: Shared::with_medium(descriptor, Short::Unknown, medium, awaits_peer) }
    }

    /// Takes over a descriptor that can be read: a pipe, a terminal, a regular file … Whether it blocks is changed as this
    /// loop needs it, which whoever shares it notices; see [`stdin`](crate::net::stdin) for what must be left alone.
    ///
    /// # Errors
    /// If the descriptor is refused, a directory.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[doc(alias = "connect_read_pipe")]
    #[track_caller]
    pub fn from_fd(fd: impl Into<OwnedFd>) -> io::Result<Self> {
        let driver = core::current().driver.clone();
        let fd = fd.into();
        let medium = medium_of(&fd)?;
        control::set_nonblocking(&fd, driver.wants_nonblocking())?;
        Ok(Self::of(&driver, fd, medium, false))
    }

    /// Opens a named pipe. Complete means that it is open, not that anybody writes: it receives nothing, not even the end,
    /// before somebody has opened it for writing.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// What the kernel says: `NotFound`, `PermissionDenied` …; `InvalidInput` if this is no pipe.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    ///
    /// # Kernel
    /// `IORING_OP_OPENAT` (5.6); on epoll `openat(2)` in a thread of the pool. It does not block.
    ///
    /// # References
    /// [fifo(7)](https://man7.org/linux/man-pages/man7/fifo.7.html)
    #[track_caller]
    pub fn open(path: impl AsRef<Path>) -> impl Future<Output = io::Result<Self>> {
        let driver = core::current().driver.clone();
        let path = CString::new(path.as_ref().as_os_str().as_bytes());
        async move {
            let fd = open(&driver, path?, libc::O_RDONLY).await?;
            Ok(Self::of(&driver, fd, Medium::Pipe, true))
        }
    }

    /// Completes with the next bytes, as they came: a chunk, never empty, or `None` when nobody has the other end open any
    /// more.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: bytes stay with the reader.
    ///
    /// # Errors
    /// What the kernel says, [`Busy`](crate::Busy) while another task receives, [`Closed`].
    ///
    /// # Kernel
    /// `IORING_OP_READ` (5.6) into a provided buffer (5.19), before that `IORING_OP_POLL_ADD` first. On epoll, `read(2)`
    /// when there is something to read, for regular files in a thread of the pool.
    pub fn receive(&self) -> impl Future<Output = io::Result<Option<Chunk>>> + use<'_> {
        Receive::<Unix>::of(&self.shared)
    }

    /// The poll face of [`receive`](Self::receive). Only the last task that polled is woken.
    ///
    /// # Errors
    /// As there, but for `Busy`.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        self.shared.poll_receive(cx)
    }

    /// Completes with the number of bytes received into `buf`, from its start, and `buf` itself; 0 at the end, or if `buf`
    /// has no room.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: bytes that came too late stay with the reader. The buffer is gone.
    ///
    /// # Errors
    /// As [`receive`](Self::receive); the buffer comes back in [`Failed`].
    pub fn receive_into<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = Result<(usize, B), Failed<B>>> + use<'_, B> {
        self.shared.receive_into(buf)
    }

    /// Stops receiving and gives the descriptor away, with the bytes that had come already.
    ///
    /// # Cancel safety
    /// *Data already received is lost*, and the descriptor closed.
    ///
    /// # Errors
    /// If it is closed.
    pub fn into_fd(self) -> impl Future<Output = io::Result<(OwnedFd, Vec<Chunk>)>> {
        let give_away = async move {
            poll_fn(|cx| self.shared.poll_idle(cx)).await;
            let received = self.shared.take_inbound();
            let fd = self.shared.descriptor.take().ok_or(Closed::new("the pipe"))?;
            Ok((fd, received))
        };
        cut(What(&"a pipe to stop"), give_away)
    }

    /// Closes it. Complete means that the descriptor is closed.
    ///
    /// # Cancel safety
    /// *May have happened*: it is closed in any case.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn close(self) -> impl Future<Output = io::Result<()>> {
        cut(What(&"a pipe to close"), async move { self.shared.close().await })
    }
}

impl PipeWriter {
    pub(crate) fn of(driver: &Rc<Driver>, fd: OwnedFd, medium: Medium) -> Self {
        Self { shared: Shared::with_medium(Descriptor::new(driver, fd), Short::Unknown, medium, false) }
    }

    /// Takes over a descriptor that can be written: a pipe, a terminal, a regular file … Whether it blocks is changed as
    /// this loop needs it, which whoever shares it notices; see [`stdout`](crate::net::stdout) for what must be left alone.
    ///
    /// # Errors
    /// If the descriptor is refused, a directory.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[doc(alias = "connect_write_pipe")]
    #[track_caller]
    pub fn from_fd(fd: impl Into<OwnedFd>) -> io::Result<Self> {
        let driver = core::current().driver.clone();
        let fd = fd.into();
        let medium = medium_of(&fd)?;
        control::ignore_broken_pipes();
        control::set_nonblocking(&fd, driver.wants_nonblocking())?;
        Ok(Self::of(&driver, fd, medium))
    }

    /// Opens a named pipe. Complete means that somebody has it open for reading.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// What the kernel says: `NotFound`, `PermissionDenied` …; `InvalidInput` if this is no pipe.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    ///
    /// # Kernel
    /// `IORING_OP_OPENAT` (5.6), on epoll `openat(2)` in a thread of the pool, again and again with pauses while there is no
    /// reader. It does not block.
    #[track_caller]
    pub fn open(path: impl AsRef<Path>) -> impl Future<Output = io::Result<Self>> {
        let driver = core::current().driver.clone();
        let path = CString::new(path.as_ref().as_os_str().as_bytes());
        async move {
            control::ignore_broken_pipes();
            let (path, mut pause) = (path?, RETRY.0);
            loop {
                match open(&driver, path.clone(), libc::O_WRONLY).await {
                    Ok(fd) => return Ok(Self::of(&driver, fd, Medium::Pipe)),
                    // There is no reader.
                    Err(error) if error.raw_os_error() == Some(libc::ENXIO) => sleep(pause).await?,
                    Err(error) => return Err(error),
                }
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }

    /// Sends all of `buf` and gives it back. Complete means that the pipe has taken it. Pieces of up to 4096 bytes of several
    /// writers of a pipe do not mix.
    ///
    /// # Cancel safety
    /// *May have happened*: dropped while it waits for earlier sends, nothing is sent; once begun, all of it is sent,
    /// unless the writer is closed.
    ///
    /// # Errors
    /// What the kernel says: `BrokenPipe` if nobody reads any more (no signal is raised), and then for every later send; or
    /// [`Closed`]. The buffer and the number of bytes sent are in [`Failed`].
    ///
    /// # Kernel
    /// `IORING_OP_WRITE` (5.6). On epoll, `write(2)` when there is room, for regular files in a thread of the pool.
    pub fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> + use<'_, B> {
        self.shared.send(SendAll::new(self.shared.clone(), buf))
    }

    /// Sends all of several buffers, together, and gives them back.
    ///
    /// # Cancel safety
    /// *May have happened*, as for [`send`](Self::send).
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_vectored<B: IoBuf>(
        &self,
        bufs: Vec<B>,
    ) -> impl Future<Output = Result<Vec<B>, Failed<Vec<B>>>> + use<'_, B> {
        self.shared.send(SendVectored::new(self.shared.clone(), bufs))
    }

    /// Queues bytes and returns how many are queued now; they go out in order, as soon as there is room. Wait with
    /// [`flush`](Self::flush) or [`poll_flush`](Self::poll_flush) where the reader may be slow.
    ///
    /// # Errors
    /// If an earlier send failed, or the writer is closed.
    pub fn write(&self, data: impl Into<Bytes>) -> io::Result<usize> {
        self.shared.write(data.into())
    }

    /// Ready when at most `below` queued bytes are left.
    ///
    /// # Errors
    /// If a send failed or the writer is closed.
    pub fn poll_flush(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        self.shared.poll_flush(cx, below)
    }

    /// Completes when the pipe has taken everything that was queued with [`write`](Self::write).
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// If a send failed or the writer is closed.
    #[doc(alias = "drain")]
    pub fn flush(&self) -> impl Future<Output = io::Result<()>> + use<'_> {
        poll_fn(|cx| self.shared.poll_flush(cx, 0))
    }

    /// Sends what is queued, and gives the descriptor away.
    ///
    /// # Cancel safety
    /// *May have happened*: what was queued may be lost, and the descriptor is closed.
    ///
    /// # Errors
    /// If sending fails or it is closed.
    pub fn into_fd(self) -> impl Future<Output = io::Result<OwnedFd>> {
        let give_away = async move {
            drop(self.shared.turn().await?);
            Ok(self.shared.descriptor.take().ok_or(Closed::new("the pipe"))?)
        };
        cut(What(&"a pipe to stop"), give_away)
    }

    /// Sends what is queued, then closes. Complete means that the descriptor is closed.
    ///
    /// # Cancel safety
    /// *May have happened*: it is closed in any case, but what was queued may be lost.
    ///
    /// # Errors
    /// If a send fails; it is closed all the same.
    pub fn close(self) -> impl Future<Output = io::Result<()>> {
        cut(What(&"a pipe to close"), async move { self.shared.close().await })
    }
}

macro_rules! end_of_pipe {
    ($name:ident) => {
        impl $name {
            /// What the end consists of, without the end: whoever has it calls `drop_handle` in the end.
            pub(crate) fn into_shared(self) -> Rc<Shared> {
                self.shared.add_handle();
                self.shared.clone()
            }
        }

        impl AsRawFd for $name {
            /// The number of the descriptor, for calls that leave its state alone.
            fn as_raw_fd(&self) -> RawFd {
                self.shared.descriptor.number()
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.shared.drop_handle();
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.shared).finish()
            }
        }
    };
}

end_of_pipe!(PipeReader);
end_of_pipe!(PipeWriter);

/// Opens a named pipe without waiting for the other end.
async fn open(driver: &Rc<Driver>, path: CString, access: i32) -> io::Result<OwnedFd> {
    let open = Open::new(path, access | libc::O_NONBLOCK, 0);
    let (result, op) = Ask::new(driver, open, What(&"a pipe to open")).await;
    outcome(result)?;
    let fd = op.into_opened().expect("it succeeded");
    if control::file_kind(&fd)? != libc::S_IFIFO {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no pipe"));
    }
    control::set_nonblocking(fd.as_fd(), driver.wants_nonblocking())?;
    Ok(fd)
}
