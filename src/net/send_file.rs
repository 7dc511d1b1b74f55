//! Sending files.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

#[cfg(feature = "tls")]
use crate::driver::Key;
use crate::error::{Failed, SendfileNotAvailable};
use crate::fs;
use crate::net::outbound::Sending;
use crate::net::shared::Shared;
use crate::net::{Family, PipeWriter, SendHalf, Stream};
use crate::op::Descriptor;
use crate::op::net::{FileTrouble, SendFile as Operation, SendFileOptions, Sent, Source};

/// An open file that [`send_file`](Stream::send_file) sends: made from `&fs::File` or `&std::fs::File`.
///
/// A file of std is duplicated, and closed in a thread of the pool afterwards; its own position is left behind what was
/// sent. An [`fs::File`], which has no position, costs neither.
#[derive(Debug)]
pub struct FileSource {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Ours(Rc<Descriptor>),
    Std(io::Result<OwnedFd>),
}

impl From<&fs::File> for FileSource {
    fn from(file: &fs::File) -> Self {
        Self { kind: Kind::Ours(file.descriptor()) }
    }
}

impl From<&std::fs::File> for FileSource {
    fn from(file: &std::fs::File) -> Self {
        Self { kind: Kind::Std(file.try_clone().map(OwnedFd::from)) }
    }
}

/// A file to be sent by reading it.
pub(crate) struct Readable {
    file: fs::File,
    sets_position: bool,
}

impl Readable {
    pub(crate) fn read_at(
        &self,
        buf: Vec<u8>,
        offset: u64,
    ) -> impl Future<Output = Result<(usize, Vec<u8>), Failed<Vec<u8>>>> + use<'_> {
        self.file.read_at(buf, offset)
    }

    /// Leaves the position of a file of std behind what was sent.
    pub(crate) fn set_position(&self, position: u64) {
        if self.sets_position {
            // What has no position keeps none.
            let _ = self.file.descriptor().with(|fd| {
                let mut file = std::fs::File::from(fd.try_clone_to_owned()?);
                file.seek(SeekFrom::Start(position))
            });
        }
    }
}

impl FileSource {
    /// For who reads the file by himself.
    pub(crate) fn into_readable(self) -> io::Result<Readable> {
        let (file, sets_position) = match self.kind {
            Kind::Ours(descriptor) => (fs::File::of(descriptor), false),
            Kind::Std(fd) => (fs::File::from_std(fd?.into()), true),
        };
        Ok(Readable { file, sets_position })
    }

    fn into_source(self, shared: &Shared) -> io::Result<Source> {
        match self.kind {
            Kind::Ours(file) => Ok(Source { file, sets_position: false }),
            Kind::Std(fd) => {
                let file = Descriptor::new(shared.driver(), fd?);
                file.set_lingers(true);
                Ok(Source { file: Rc::new(file), sets_position: true })
            }
        }
    }
}

/// The future of [`send_file`](Stream::send_file), and what it is told before it is first polled.
#[must_use = "futures do nothing unless awaited"]
pub struct SendFile<'a> {
    shared: &'a Rc<Shared>,
    options: SendFileOptions,
    stage: Stage<'a>,
    sent: Option<Rc<Cell<u64>>>,
}

enum Stage<'a> {
    New(FileSource),
    Sending(Sending<'a, Operation<Shared>>),
    Over,
}

impl<'a> SendFile<'a> {
    pub(crate) fn new(shared: &'a Rc<Shared>, file: FileSource) -> Self {
        let options = SendFileOptions { offset: 0, count: None, fallback: true, inline: false };
        Self { shared, options, stage: Stage::New(file), sent: None }
    }

    /// From where in the file. Default: its beginning, whatever its own position is.
    pub fn offset(mut self, offset: u64) -> Self {
        self.options.offset = offset;
        self
    }

    /// How many bytes, if the file has so many. Default: up to its end. To give it saves asking whether there is more.
    pub fn count(mut self, count: u64) -> Self {
        self.options.count = Some(count);
        self
    }

    /// Whether a file that the kernel cannot send by itself (of a file system that knows no splice, such as some in
    /// `/proc`) is read and sent instead. Default: yes; else that is the error [`SendfileNotAvailable`].
    pub fn fallback(mut self, on: bool) -> Self {
        self.options.fallback = on;
        self
    }

    /// Whether the loop's thread itself sends what is cached, by sendfile(2), on the ring too: the fastest way for
    /// files that are nearly always cached, at the price of system calls beside the ring. What a probe
    /// (`RWF_NOWAIT`) does not find cached takes the usual way. The epoll driver does so in any case; on the ring, pipes do
    /// not. Default: no.
    pub fn inline(mut self, on: bool) -> Self {
        self.options.inline = on;
        self
    }

    /// The operation, once it has the turn and until its result was fetched.
    #[cfg(feature = "tls")]
    pub(crate) fn key(&self) -> Option<Key> {
        if let Stage::Sending(sending) = &self.stage { sending.key() } else { None }
    }

    /// How many bytes the socket has taken so far: for whoever gives up on a peer that takes none for some time.
    pub fn sent(&self) -> u64 {
        self.sent.as_ref().map_or(0, |sent| sent.get())
    }

    fn begin(&mut self, file: FileSource) -> io::Result<Stage<'a>> {
        if i64::try_from(self.options.offset).is_err() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let source = file.into_source(self.shared)?;
        let operation = Operation::new(self.shared.clone(), source, self.options);
        self.sent = Some(operation.progress());
        Ok(Stage::Sending(self.shared.send(operation)))
    }
}

/// What the stream is to blame for, and what the file is.
fn outcome(sent: Result<Sent, Failed<Sent>>) -> Result<u64, Failed<()>> {
    let (sent, error) = match sent {
        Ok(sent) => (sent, None),
        Err(failed) => (failed.buf, Some(failed.error)),
    };
    let error = error.or(match sent.trouble {
        None => None,
        Some(FileTrouble::NotAvailable(errno)) => Some(SendfileNotAvailable::new(errno).into()),
        Some(FileTrouble::Read(errno)) => Some(io::Error::from_raw_os_error(errno)),
    });
    match error {
        None => Ok(sent.bytes),
        Some(error) => Err(Failed::new(error, (), usize::try_from(sent.bytes).unwrap_or(usize::MAX))),
    }
}

impl Future for SendFile<'_> {
    type Output = Result<u64, Failed<()>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Stage::New(_) = this.stage
            && let Stage::New(file) = std::mem::replace(&mut this.stage, Stage::Over)
        {
            this.stage = this.begin(file).map_err(|error| Failed::new(error, (), 0))?;
        }
        let Stage::Sending(sending) = &mut this.stage else {
            panic!("a future was polled after it had completed")
        };
        let polled = Pin::new(sending).poll(cx).map(outcome);
        if polled.is_ready() {
            this.stage = Stage::Over;
        }
        polled
    }
}

impl fmt::Debug for SendFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendFile").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<F: Family> Stream<F> {
    /// Sends a file, or a part of it, without bringing it through memory of the program where the kernel has a faster
    /// way. Completes with the number of bytes when the socket has taken them: fewer than were asked for only where the
    /// file ends before.
    ///
    /// It has its place among the other sends: what was sent or written before goes first, what comes after waits. A
    /// peer that does not read holds a file, a socket and at most 64 KiB of memory, but no thread and no pipe; a
    /// file that has to be fetched from the disk does not hold the loop up.
    ///
    /// # Cancel safety
    /// *May have happened*: dropped while it waits for its turn, nothing is sent; dropped later, it goes on until all is
    /// sent or the stream is closed. A cancel of the scope stops it, and the error has the exact count.
    ///
    /// # Errors
    /// What the kernel says of the stream, as for [`send`](Self::send), and of the file, after which the stream is as
    /// good as before; [`SendfileNotAvailable`] if a fallback is needed and not allowed; [`Closed`](crate::Closed). The
    /// number of bytes that the socket had taken is [`Failed::done`].
    ///
    /// # Kernel
    /// Up to 64 KiB `IORING_OP_READ` and `IORING_OP_SEND` (5.6), above `IORING_OP_SPLICE` (5.7) through a pipe of
    /// 1 MiB, of which a loop keeps some; past the limits of pipes READ and SEND again. The socket becomes
    /// non-blocking then. On epoll sendfile(2) of what is cached, and for the rest read(2) in a thread of the pool.
    ///
    /// # Examples
    /// ```
    /// use proactor::fs::File;
    /// use proactor::net::UnixStream;
    /// # fn main() -> std::io::Result<()> {
    /// proactor::run(async {
    ///     let (ours, theirs) = UnixStream::pair()?;
    ///     let file = File::open("Cargo.toml").await?;
    ///     let sent = ours.send_file(&file).offset(1).count(7).await?;
    ///     assert_eq!(sent, 7);
    ///     assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"package");
    ///     Ok::<_, std::io::Error>(())
    /// })
    /// # }
    /// ```
    ///
    /// # References
    /// [sendfile(2)](https://man7.org/linux/man-pages/man2/sendfile.2.html),
    /// [splice(2)](https://man7.org/linux/man-pages/man2/splice.2.html)
    #[doc(alias = "sendfile")]
    #[doc(alias = "sock_sendfile")]
    pub fn send_file(&self, file: impl Into<FileSource>) -> SendFile<'_> {
        SendFile::new(&self.shared, file.into())
    }
}

impl<F: Family> SendHalf<F> {
    /// As [`Stream::send_file`].
    ///
    /// # Errors
    /// As there.
    pub fn send_file(&self, file: impl Into<FileSource>) -> SendFile<'_> {
        SendFile::new(&self.shared, file.into())
    }
}

impl PipeWriter {
    /// Sends a file, or a part of it, as [`Stream::send_file`]: into a pipe without bringing it through memory of the
    /// program, into other things by reading and writing.
    ///
    /// # Cancel safety
    /// *May have happened*: dropped while it waits for its turn, nothing is sent; dropped later, it goes on until all is
    /// sent or the writer is closed. A cancel of the scope stops it, and the error has the exact count.
    ///
    /// # Errors
    /// As there; `BrokenPipe` if nobody reads any more.
    ///
    /// # Kernel
    /// `IORING_OP_SPLICE` (5.7), on epoll sendfile(2) (5.12); else READ and WRITE.
    ///
    /// # Examples
    /// ```
    /// use proactor::fs::File;
    /// # fn main() -> std::io::Result<()> {
    /// proactor::run(async {
    ///     let (reader, writer) = proactor::net::pipe().await?;
    ///     let file = File::open("Cargo.toml").await?;
    ///     assert_eq!(writer.send_file(&file).offset(1).count(7).await?, 7);
    ///     assert_eq!(&reader.receive().await?.expect("bytes")[..], b"package");
    ///     Ok::<_, std::io::Error>(())
    /// })
    /// # }
    /// ```
    #[doc(alias = "sendfile")]
    pub fn send_file(&self, file: impl Into<FileSource>) -> SendFile<'_> {
        SendFile::new(&self.shared, file.into())
    }
}
