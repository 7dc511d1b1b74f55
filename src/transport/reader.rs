//! Bytes that are fed on one side and read on the other.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::{Bytes, BytesMut};

use crate::error::{Busy, IncompleteRead, LimitOverrun};
use crate::runtime::budget;
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check};
use crate::transport::handle::Transport;

/// The limit of a [`StreamReader`], unless another one is given.
pub const STREAM_LIMIT: usize = 64 << 10;

/// The reading side of a connection, buffered: see [`open_connection`](crate::transport::open_connection).
///
/// A clone is another handle of the same reader. One task may read at a time; a second one is told [`Busy`].
///
/// Nothing is lost when a read is dropped or cancelled: the bytes stay in the buffer.
///
/// # Examples
/// ```
/// use proactor::transport::StreamReader;
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let reader = StreamReader::new(1024);
///     reader.feed_data(b"one\ntwo");
///     reader.feed_eof();
///     assert_eq!(&reader.readline().await?[..], b"one\n");
///     assert_eq!(&reader.read(100).await?[..], b"two");
///     assert!(reader.at_eof());
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct StreamReader {
    state: Rc<State>,
}

struct State {
    limit: usize,
    buffer: RefCell<BytesMut>,
    is_at_eof: Cell<bool>,
    error: RefCell<Option<Rc<io::Error>>>,
    transport: RefCell<Option<Transport>>,
    /// The transport was told to pause, since there is so much.
    is_paused: Cell<bool>,
    waiter: Waiter,
    is_read: Cell<bool>,
}

/// The same error once more: what the kernel said, or its kind and text.
pub(super) fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Where `separator` is in `bytes`, from `from` on.
fn find(bytes: &[u8], separator: &[u8], from: usize) -> Option<usize> {
    match separator {
        [byte] => bytes[from..].iter().position(|other| other == byte).map(|at| from + at),
        _ => bytes[from..].windows(separator.len()).position(|part| part == separator).map(|at| from + at),
    }
}

impl StreamReader {
    /// A reader that nothing feeds yet. More than twice `limit` bytes make its transport pause; and
    /// [`readuntil`](Self::readuntil) and [`readline`](Self::readline) look for their separators so far.
    ///
    /// # Panics
    /// If the limit is zero.
    pub fn new(limit: usize) -> Self {
        assert!(limit > 0, "the limit of a StreamReader is above zero");
        let state = State {
            limit,
            buffer: RefCell::default(),
            is_at_eof: Cell::new(false),
            error: RefCell::default(),
            transport: RefCell::default(),
            is_paused: Cell::new(false),
            waiter: Waiter::new(),
            is_read: Cell::new(false),
        };
        Self { state: Rc::new(state) }
    }

    /// The transport that is told to pause while there is too much in the buffer.
    pub fn set_transport(&self, transport: &Transport) {
        let before = self.state.transport.replace(Some(transport.clone()));
        drop(before);
    }

    /// Adds bytes, and wakes whoever reads.
    pub fn feed_data(&self, data: &[u8]) {
        let state = &self.state;
        if data.is_empty() {
            return;
        }
        let len = {
            let mut buffer = state.buffer.borrow_mut();
            buffer.extend_from_slice(data);
            buffer.len()
        };
        if len > 2 * state.limit && !state.is_paused.get() {
            let transport = state.transport.borrow().clone();
            if let Some(transport) = transport {
                transport.pause_reading();
                state.is_paused.set(true);
            }
        }
        state.waiter.wake();
    }

    /// No more bytes come.
    pub fn feed_eof(&self) {
        self.state.is_at_eof.set(true);
        self.state.waiter.wake();
    }

    /// Every read fails with this from now on.
    pub fn set_exception(&self, error: io::Error) {
        let before = self.state.error.replace(Some(Rc::new(error)));
        drop(before);
        self.state.waiter.wake();
    }

    /// What every read fails with, if that was set.
    pub fn exception(&self) -> Option<io::Error> {
        let error = self.state.error.borrow().clone();
        error.as_deref().map(again) // its text is the program's code
    }

    /// Whether everything was read, up to the end.
    pub fn at_eof(&self) -> bool {
        self.state.is_at_eof.get() && self.state.buffer.borrow().is_empty()
    }

    /// Takes bytes from the buffer; the transport goes on when it has shrunk to the limit.
    fn take(&self, count: usize) -> Bytes {
        let (bytes, left) = {
            let mut buffer = self.state.buffer.borrow_mut();
            (buffer.split_to(count).freeze(), buffer.len())
        };
        if left <= self.state.limit {
            self.resume();
        }
        bytes
    }

    /// Takes everything there is.
    #[cfg(feature = "tls")]
    pub(super) fn take_all(&self) -> Vec<u8> {
        self.take(self.len()).into()
    }

    fn resume(&self) {
        if self.state.is_paused.replace(false) {
            let transport = self.state.transport.borrow().clone();
            transport.inspect(Transport::resume_reading);
        }
    }

    /// What came before reading failed, which nobody else is told of.
    pub(super) fn take_left(&self) -> Option<Bytes> {
        let has_failed = self.state.error.borrow().is_some();
        (has_failed && !self.state.is_read.get() && self.len() > 0).then(|| self.take(self.len()))
    }

    fn len(&self) -> usize {
        self.state.buffer.borrow().len()
    }

    /// The beginning of each read: its turn, unless it is cancelled, somebody else reads, or reading has failed.
    async fn begin(&self) -> io::Result<Reading<'_>> {
        poll_fn(|cx| {
            ready!(check(cx))?;
            budget::spend(cx).map(Ok::<_, io::Error>)
        })
        .await?;
        if self.state.is_read.replace(true) {
            return Err(Busy::new("reading from").into());
        }
        let reading = Reading(self);
        self.exception().map_or(Ok(reading), Err)
    }

    /// Reads at most `max` bytes, and at least one; none at the end, or if `max` is zero.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// What was set by [`set_exception`](Self::set_exception), so why the connection was lost; [`Busy`].
    pub fn read(&self, max: usize) -> impl Future<Output = io::Result<Bytes>> + use<> {
        let reader = self.clone();
        async move {
            let reading = reader.begin().await?;
            if max > 0 && reader.len() == 0 && !reader.state.is_at_eof.get() {
                reading.more().await?;
            }
            Ok(reader.take(reader.len().min(max)))
        }
    }

    /// Reads everything up to the end.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[doc(alias = "read")]
    pub fn read_to_end(&self) -> impl Future<Output = io::Result<Bytes>> + use<> {
        let reader = self.clone();
        async move {
            let reading = reader.begin().await?;
            while !reader.state.is_at_eof.get() {
                reading.more().await?;
            }
            Ok(reader.take(reader.len()))
        }
    }

    /// Reads exactly `count` bytes, whatever the limit.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// As [`read`](Self::read); [`IncompleteRead`] at the end, with what was left, which is taken out of the buffer.
    pub fn readexactly(&self, count: usize) -> impl Future<Output = io::Result<Bytes>> + use<> {
        let reader = self.clone();
        async move {
            let reading = reader.begin().await?;
            while reader.len() < count {
                if reader.state.is_at_eof.get() {
                    let partial = reader.take(reader.len()).into();
                    return Err(IncompleteRead::new(partial, Some(count)).into());
                }
                reading.more().await?;
            }
            Ok(reader.take(count))
        }
    }

    /// Reads up to and including `separator`.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// As [`read`](Self::read); [`IncompleteRead`] if the end comes before, with what was left, which is taken out of the
    /// buffer; [`LimitOverrun`] if it is not within the limit: then the bytes stay. `InvalidInput` for an empty separator.
    pub fn readuntil(&self, separator: &[u8]) -> impl Future<Output = io::Result<Bytes>> + use<> {
        let reader = self.clone();
        let separator = Bytes::copy_from_slice(separator);
        async move { reader.until(&separator).await }
    }

    async fn until(&self, separator: &[u8]) -> io::Result<Bytes> {
        if separator.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a separator has at least one byte"));
        }
        let reading = self.begin().await?;
        // The separator does not begin before this.
        let mut from = 0;
        loop {
            let found = find(&self.state.buffer.borrow(), separator, from);
            if let Some(at) = found {
                if at > self.state.limit {
                    return Err(LimitOverrun::new(at).into());
                }
                return Ok(self.take(at + separator.len()));
            }
            from = from.max((self.len() + 1).saturating_sub(separator.len()));
            if from > self.state.limit {
                return Err(LimitOverrun::new(from).into());
            }
            if self.state.is_at_eof.get() {
                let partial = self.take(self.len()).into();
                return Err(IncompleteRead::new(partial, None).into());
            }
            reading.more().await?;
        }
    }

    /// Reads a line with its end, a line feed. The last one may have none; after it comes nothing.
    ///
    /// # Cancel safety
    /// *Nothing is lost.*
    ///
    /// # Errors
    /// As [`read`](Self::read); [`LimitOverrun`] if the line is longer than the limit: then it is taken out of the buffer
    /// with its end, if that has come, and else everything is.
    pub fn readline(&self) -> impl Future<Output = io::Result<Bytes>> + use<> {
        let reader = self.clone();
        async move {
            let error = match reader.until(b"\n").await {
                Ok(line) => return Ok(line),
                Err(error) => error,
            };
            let inner = error.get_ref();
            if let Some(incomplete) = inner.and_then(|inner| inner.downcast_ref::<IncompleteRead>()) {
                return Ok(incomplete.partial.clone().into());
            }
            if let Some(overrun) = inner.and_then(|inner| inner.downcast_ref::<LimitOverrun>()) {
                let has_end = reader.state.buffer.borrow().get(overrun.consumed) == Some(&b'\n');
                drop(reader.take(if has_end { overrun.consumed + 1 } else { reader.len() }));
            }
            Err(error)
        }
    }
}

/// The claim of the one who reads.
struct Reading<'a>(&'a StreamReader);

impl Reading<'_> {
    /// Waits until there is more, or the end.
    async fn more(&self) -> io::Result<()> {
        let state = &self.0.state;
        // Who waits wants more, however much there is.
        self.0.resume();
        let mut is_waiting = false;
        let woken = poll_fn(|cx| {
            if std::mem::replace(&mut is_waiting, true) && !state.waiter.has_waker() {
                return Poll::Ready(Ok(()));
            }
            ready!(check(cx))?;
            state.waiter.register_for(cx, What(&"bytes of a stream reader"));
            Poll::Pending::<io::Result<()>>
        });
        woken.await?;
        self.0.exception().map_or(Ok(()), Err)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.state.waiter.clear();
        self.0.state.is_read.set(false);
    }
}

impl fmt::Debug for StreamReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReader")
            .field("buffered", &self.len())
            .field("limit", &self.state.limit)
            .field("eof", &self.state.is_at_eof.get())
            .finish_non_exhaustive()
    }
}
