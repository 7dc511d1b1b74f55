//! Files as streams of bytes.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io::{self, SeekFrom};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::buf::{Chunk, IoBuf};
use crate::error::{Closed, Failed};
use crate::fs::{self, File};
use crate::runtime::core;
use crate::stream::{
    AsyncResource, Attribute, Attributes, ByteReceiveStream, ByteSendStream, TypedAttributeProvider,
};
use crate::sync::ResourceGuard;

/// What is received at a time, at most.
const PIECE: usize = 64 << 10;

/// What streams of files know.
#[derive(Debug)]
pub enum FileStreamAttribute {}

impl FileStreamAttribute {
    /// Where the file is, as it was opened.
    pub const PATH: Attribute<PathBuf> = Attribute::new("FileStreamAttribute::PATH");
    /// The number of the descriptor.
    #[doc(alias = "fileno")]
    pub const RAW_FD: Attribute<RawFd> = Attribute::new("FileStreamAttribute::RAW_FD");
}

/// A file, and where in it the stream is.
struct At {
    /// `None` when it is closed.
    file: RefCell<Option<Rc<File>>>,
    path: Option<PathBuf>,
    position: Cell<u64>,
    guard: ResourceGuard,
}

impl At {
    fn new(file: File, path: Option<&Path>, action: &'static str) -> Self {
        Self {
            file: RefCell::new(Some(Rc::new(file))),
            path: path.map(Path::to_owned),
            position: Cell::new(0),
            guard: ResourceGuard::new(action),
        }
    }

    fn file(&self) -> io::Result<Rc<File>> {
        self.file.borrow().clone().ok_or_else(|| Closed::new("the file").into())
    }

    async fn close(&self) -> io::Result<()> {
        let file = self.file.take();
        match file.map(Rc::try_unwrap) {
            Some(Ok(file)) => file.close().await,
            // Whoever reads or writes closes it in the end.
            Some(Err(_)) | None => Ok(()),
        }
    }

    fn attributes(&self) -> Attributes<'_> {
        Attributes::new()
            .with(FileStreamAttribute::PATH, || self.path.clone())
            .with(FileStreamAttribute::RAW_FD, || Some(self.file().ok()?.descriptor().number()))
    }
}

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("At")
            .field("path", &self.path)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// The bytes of a file as a stream that is received.
///
/// It has a position of its own: that of the descriptor does not matter. One task may receive at a time; a second one is
/// told [`Busy`](crate::Busy). Behind the end of the file comes `None`, and more if the file grows after that.
///
/// # Examples
/// ```
/// use std::io::SeekFrom;
/// use proactor::fs::FileReadStream;
/// use proactor::stream::{AsyncResource, ByteReceiveStream};
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let stream = FileReadStream::from_path("Cargo.toml").await?;
///     stream.seek(SeekFrom::Start(1)).await?;
///     let chunk = stream.receive().await?.expect("it is longer");
///     assert!(chunk.starts_with(b"package]"));
///     assert_eq!(stream.tell(), 1 + chunk.len() as u64);
///     stream.aclose().await
/// })
/// # }
/// ```
#[derive(Debug)]
pub struct FileReadStream(At);

impl FileReadStream {
    /// Of a file that can be read, from its beginning on.
    pub fn new(file: File) -> Self {
        Self(At::new(file, None, "receiving from"))
    }

    /// Opens the file at `path`.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: a file that was opened after all is closed.
    ///
    /// # Errors
    /// As [`File::open`].
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn from_path(path: impl AsRef<Path>) -> impl Future<Output = io::Result<Self>> {
        let path = path.as_ref().to_owned();
        let file = File::open(path.clone());
        async move { Ok(Self(At::new(file.await?, Some(&path), "receiving from"))) }
    }

    /// From where the next bytes come.
    pub fn tell(&self) -> u64 {
        self.0.position.get()
    }

    /// Goes to another position, which may be behind the end of the file; completes with it, from the beginning on.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: it has moved, or not.
    ///
    /// # Errors
    /// `InvalidInput` for a position before the beginning; [`Closed`]; [`Busy`](crate::Busy) while somebody receives; what the
    /// kernel says of the file's length.
    pub fn seek(&self, to: SeekFrom) -> impl Future<Output = io::Result<u64>> + use<'_> {
        async move {
            let file = self.0.file()?;
            let _moving = self.0.guard.enter()?;
            let (from, by) = match to {
                SeekFrom::Start(position) => (position, 0),
                SeekFrom::Current(by) => (self.tell(), by),
                SeekFrom::End(by) => (file.metadata().await?.len(), by),
            };
            let before = || io::Error::new(io::ErrorKind::InvalidInput, "a position before the beginning");
            let position = from.checked_add_signed(by).ok_or_else(before)?;
            self.0.position.set(position);
            Ok(position)
        }
    }
}

impl AsyncResource for FileReadStream {
    /// Closes the file. A receive that has begun is told [`Closed`], and closes it when it ends.
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        self.0.close()
    }
}

impl TypedAttributeProvider for FileReadStream {
    fn extra_attributes(&self) -> Attributes<'_> {
        self.0.attributes()
    }
}

impl ByteReceiveStream for FileReadStream {
    fn receive(&self) -> impl Future<Output = io::Result<Option<Chunk>>> {
        async move {
            let file = self.0.file()?;
            let _reading = self.0.guard.enter()?;
            // The position moves when the bytes are there: given up, it is asked for them again.
            let (count, bytes) = file.read_at(Vec::with_capacity(PIECE), self.tell()).await?;
            self.0.file()?;
            self.0.position.set(self.tell() + count as u64);
            Ok((count > 0).then(|| Chunk::from(bytes)))
        }
    }
}

/// A file as a stream that is sent to.
///
/// One task may send at a time; a second one is told [`Busy`](crate::Busy). A send is done when the kernel has the bytes, which does
/// not mean that they are on the disk.
///
/// # Examples
/// ```
/// use proactor::fs::FileWriteStream;
/// use proactor::stream::{AsyncResource, ByteSendStream};
/// # fn main() -> std::io::Result<()> {
/// # let path = std::env::temp_dir().join(format!("proactor-doc-{}", std::process::id()));
/// proactor::run(async {
///     let stream = FileWriteStream::from_path(&path).await?;
///     stream.send("one").await?;
///     stream.aclose().await?;
///     let stream = FileWriteStream::append_to(&path).await?;
///     stream.send("two").await?;
///     stream.aclose().await?;
///     assert_eq!(std::fs::read(&path)?, b"onetwo");
///     std::fs::remove_file(&path)
/// })
/// # }
/// ```
#[derive(Debug)]
pub struct FileWriteStream(At);

impl FileWriteStream {
    /// Of a file that can be written, from its beginning on.
    pub fn new(file: File) -> Self {
        Self(At::new(file, None, "sending to"))
    }

    /// Creates the file at `path`, or empties the one that is there.
    ///
    /// # Cancel safety
    /// *May have happened*: the file may be there, or empty.
    ///
    /// # Errors
    /// As [`File::create`].
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn from_path(path: impl AsRef<Path>) -> impl Future<Output = io::Result<Self>> {
        let path = path.as_ref().to_owned();
        let file = File::create(path.clone());
        async move { Ok(Self(At::new(file.await?, Some(&path), "sending to"))) }
    }

    /// Creates the file at `path`, or goes on at the end of the one that is there, wherever that end is by then.
    ///
    /// # Cancel safety
    /// *May have happened*: the file may be there.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[doc(alias = "from_path")]
    #[track_caller]
    pub fn append_to(path: impl AsRef<Path>) -> impl Future<Output = io::Result<Self>> {
        let path = path.as_ref().to_owned();
        let driver = core::current().driver.clone();
        async move {
            // With this flag the kernel takes no offset.
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;
            let file = fs::open(&driver, fs::c_path(&path), flags, 0o666).await?;
            Ok(Self(At::new(file, Some(&path), "sending to")))
        }
    }
}

impl AsyncResource for FileWriteStream {
    /// Closes the file. A send that has begun ends as if nothing were, and closes it then.
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        self.0.close()
    }
}

impl TypedAttributeProvider for FileWriteStream {
    fn extra_attributes(&self) -> Attributes<'_> {
        self.0.attributes()
    }
}

impl ByteSendStream for FileWriteStream {
    /// As the trait says. What is sent after a send that was dropped goes behind the room of that one.
    fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> {
        async move {
            let entered = self.0.file().and_then(|file| Ok((file, self.0.guard.enter()?)));
            let (file, _writing) = match entered {
                Ok(entered) => entered,
                Err(error) => return Err(Failed::new(error, buf, 0)),
            };
            let (from, len) = (self.0.position.get(), buf.as_slice().len());
            // Dropped in the middle, what the kernel has is written there still.
            self.0.position.set(from + len as u64);
            let stopped = |error, buf, done| {
                self.0.position.set(from + done as u64);
                Err(Failed::new(error, buf, done))
            };
            let (mut done, buf) = match file.write_at(buf, from).await {
                Ok(written) => written,
                Err(failed) => return stopped(failed.error, failed.buf, 0),
            };
            while done < len {
                // Rarely: a signal came, or the disk is full, which the next write says.
                let rest = buf.as_slice()[done..].to_vec();
                match file.write_at(rest, from + done as u64).await {
                    Ok((0, _)) => return stopped(io::ErrorKind::WriteZero.into(), buf, done),
                    Ok((count, _)) => done += count,
                    Err(failed) => return stopped(failed.error, buf, done),
                }
            }
            Ok(buf)
        }
    }
}
