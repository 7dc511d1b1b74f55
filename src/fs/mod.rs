//! Files, read and written at offsets, or as streams.

mod stream;

pub use stream::{FileReadStream, FileStreamAttribute, FileWriteStream};

use std::ffi::CString;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use crate::buf::{IoBuf, IoBufMut};
use crate::driver::Driver;
use crate::error::Failed;
use crate::op::Descriptor;
use crate::op::fs::{Open, ReadAt, Stat, WriteAt};
use crate::runtime::core;
use crate::runtime::scope::What;
use crate::runtime::wait::{Ask, cut, outcome};

/// An open file.
///
/// Reads and writes carry their offset, so several may be in flight at a time. Dropping the file closes it.
///
/// # Kernel
/// `IORING_OP_OPENAT`, `IORING_OP_READ`, `IORING_OP_WRITE` (5.6), and `close(2)` in a thread of the pool; on the epoll
/// driver all of them are system calls there.
///
/// # Examples
/// ```
/// use proactor::fs::File;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let file = File::open("Cargo.toml").await?;
///     let (count, buf) = file.read_at(Vec::with_capacity(4096), 0).await?;
///     assert!(count > 0 && buf.starts_with(b"[package]"));
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[derive(Debug)]
pub struct File {
    descriptor: Rc<Descriptor>,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path contains a zero byte"))
}

async fn open(driver: &Rc<Driver>, path: io::Result<CString>, flags: i32, mode: u32) -> io::Result<File> {
    let (result, op) = Ask::new(driver, Open::new(path?, flags, mode), What(&"a file to open")).await;
    outcome(result)?;
    let fd = op.into_opened().expect("an open that succeeded has a descriptor");
    let descriptor = Descriptor::new(driver, fd);
    // Closing a file may write back (NFS, FUSE), so the loop's thread never does it.
    descriptor.set_lingers(true);
    Ok(File { descriptor: Rc::new(descriptor) })
}

impl File {
    /// Opens a file for reading.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: a file that was opened after all is closed.
    ///
    /// # Errors
    /// What the kernel says: `NotFound`, `PermissionDenied` …
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    ///
    /// # References
    /// [open(2)](https://man7.org/linux/man-pages/man2/open.2.html)
    #[track_caller]
    pub fn open(path: impl AsRef<Path>) -> impl Future<Output = io::Result<Self>> {
        let (driver, path) = (core::current().driver.clone(), c_path(path.as_ref()));
        async move { open(&driver, path, libc::O_RDONLY, 0).await }
    }

    /// Creates a file for reading and writing, or empties the one that is there.
    ///
    /// # Cancel safety
    /// *May have happened*: the file may be there, or empty.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn create(path: impl AsRef<Path>) -> impl Future<Output = io::Result<Self>> {
        let (driver, path) = (core::current().driver.clone(), c_path(path.as_ref()));
        async move { open(&driver, path, libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC, 0o666).await }
    }

    /// Takes over an open file of std.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn from_std(file: std::fs::File) -> Self {
        let descriptor = Descriptor::new(&core::current().driver, file.into());
        descriptor.set_lingers(true);
        Self { descriptor: Rc::new(descriptor) }
    }

    pub(crate) fn of(descriptor: Rc<Descriptor>) -> Self {
        Self { descriptor }
    }

    /// What operations on the file hold.
    pub(crate) fn descriptor(&self) -> Rc<Descriptor> {
        self.descriptor.clone()
    }

    /// Reads at `offset` into `buf`, from its start; completes with the number of bytes and `buf`. 0 at the end of the
    /// file; it may be less than fits.
    ///
    /// # Cancel safety
    /// *Nothing is lost*, but the buffer.
    ///
    /// # Errors
    /// What the kernel says; the buffer comes back in [`Failed`].
    ///
    /// # References
    /// [pread(2)](https://man7.org/linux/man-pages/man2/pread.2.html)
    pub fn read_at<B: IoBufMut>(
        &self,
        buf: B,
        offset: u64,
    ) -> impl Future<Output = Result<(usize, B), Failed<B>>> + use<'_, B> {
        async move {
            let op = ReadAt::new(self.descriptor.clone(), buf, offset);
            let (result, op) = Ask::new(self.descriptor.driver(), op, What(&"a read of a file")).await;
            count(result, op.into_buf())
        }
    }

    /// Writes the bytes of `buf` at `offset`; completes with the number of bytes and `buf`. It may be less than all.
    ///
    /// # Cancel safety
    /// *May have happened.*
    ///
    /// # Errors
    /// What the kernel says; the buffer comes back in [`Failed`].
    ///
    /// # References
    /// [pwrite(2)](https://man7.org/linux/man-pages/man2/pwrite.2.html)
    pub fn write_at<B: IoBuf>(
        &self,
        buf: B,
        offset: u64,
    ) -> impl Future<Output = Result<(usize, B), Failed<B>>> + use<'_, B> {
        async move {
            let op = WriteAt::new(self.descriptor.clone(), buf, offset);
            let (result, op) = Ask::new(self.descriptor.driver(), op, What(&"a write of a file")).await;
            count(result, op.into_buf())
        }
    }

    /// What the file system knows about the file.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Kernel
    /// `statx(2)` in a thread of the pool, on both drivers: the ring would hand it to a thread too.
    pub fn metadata(&self) -> impl Future<Output = io::Result<Metadata>> + use<'_> {
        stat(self.descriptor.driver(), Ok(Stat::of_file(self.descriptor.clone())))
    }

    /// Closes the file; an error that was held back until then comes out here.
    ///
    /// # Cancel safety
    /// *May have happened*: the file is closed in any case.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn close(self) -> impl Future<Output = io::Result<()>> {
        async move {
            match Rc::try_unwrap(self.descriptor) {
                Ok(descriptor) => cut(What(&"a file to close"), descriptor.close()).await,
                // An operation whose future was dropped is still in flight: it closes the file when it is over.
                Err(_) => Ok(()),
            }
        }
    }
}

fn count<B>(result: i32, buf: B) -> Result<(usize, B), Failed<B>> {
    match outcome(result) {
        Ok(count) => Ok((count as usize, buf)),
        Err(error) => Err(Failed::new(error, buf, 0)),
    }
}

async fn stat(driver: &Rc<Driver>, op: io::Result<Stat>) -> io::Result<Metadata> {
    let (result, op) = Ask::new(driver, op?, What(&"facts about a file")).await;
    outcome(result)?;
    Ok(Metadata { found: op.into_found().expect("a statx that succeeded has a result") })
}

/// What the file system knows about a file or a directory, symbolic links followed.
///
/// # Cancel safety
/// *Nothing is lost.*
///
/// # Errors
/// What the kernel says.
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn metadata(path: impl AsRef<Path>) -> impl Future<Output = io::Result<Metadata>> {
    let (driver, path) = (core::current().driver.clone(), c_path(path.as_ref()));
    async move { stat(&driver, path.map(|path| Stat::of_path(path, true))).await }
}

/// As [`metadata`], of a symbolic link itself.
///
/// # Errors
/// What the kernel says.
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn symlink_metadata(path: impl AsRef<Path>) -> impl Future<Output = io::Result<Metadata>> {
    let (driver, path) = (core::current().driver.clone(), c_path(path.as_ref()));
    async move { stat(&driver, path.map(|path| Stat::of_path(path, false))).await }
}

/// What the file system knows about a file.
#[derive(Clone)]
pub struct Metadata {
    found: libc::statx,
}

impl Metadata {
    /// Its size in bytes.
    #[allow(clippy::len_without_is_empty, reason = "the length of a file, as in std")]
    pub fn len(&self) -> u64 {
        self.found.stx_size
    }

    /// Type and permissions, as `st_mode` of stat(2) has them.
    pub fn mode(&self) -> u32 {
        self.found.stx_mode.into()
    }

    fn is(&self, kind: u32) -> bool {
        self.mode() & libc::S_IFMT == kind
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.is(libc::S_IFREG)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.is(libc::S_IFDIR)
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.is(libc::S_IFLNK)
    }

    /// When its contents last changed.
    pub fn modified(&self) -> SystemTime {
        let time = &self.found.stx_mtime;
        let fraction = Duration::from_nanos(time.tv_nsec.into());
        match u64::try_from(time.tv_sec) {
            Ok(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + fraction,
            Err(_) => SystemTime::UNIX_EPOCH - Duration::from_secs(time.tv_sec.unsigned_abs()) + fraction,
        }
    }
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metadata")
            .field("len", &self.len())
            .field("mode", &self.mode())
            .finish_non_exhaustive()
    }
}
