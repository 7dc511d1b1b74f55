//! What this crate decides itself, one small type for each outcome; what the kernel said stays [`std::io::Error`].

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;

/// The wait was cancelled: its scope, its task or its loop was asked to stop.
///
/// Converts into an [`io::Error`] of kind [`Other`](io::ErrorKind::Other), never `Interrupted`, which loops of the
/// standard library would retry.
#[doc(alias = "CancelledError")]
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("cancelled{}", .message.as_deref().map(|m| format!(": {m}")).unwrap_or_default())]
#[non_exhaustive]
pub struct Cancelled {
    message: Option<Arc<str>>,
    source: AskedToStop,
}

/// The source of every [`Cancelled`]: what a scope looks for in the error of its body. An error type that passes its
/// cause through (`#[error(transparent)]`) hides the cause itself, but not the sources of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, thiserror::Error)]
#[error("its scope, its task or its loop was asked to stop")]
struct AskedToStop;

impl Cancelled {
    pub(crate) fn with_message(message: &str) -> Self {
        Self::from_request(Some(message.into()))
    }

    pub(crate) fn from_request(message: Option<Arc<str>>) -> Self {
        Self { message, source: AskedToStop }
    }

    /// The message that was given with the request to cancel, if there was one.
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }
}

/// An error that may be a cancellation: how scopes and task groups tell one from a failure.
///
/// For an error type of your own, one function (and a variant that is made from [`Cancelled`]):
///
/// ```
/// use proactor::{Cancelled, MayBeCancelled};
///
/// #[derive(Debug, thiserror::Error)]
/// enum Trouble {
///     #[error(transparent)]
///     Cancelled(#[from] Cancelled),
///     #[error("no such user: {0}")]
///     NoSuchUser(String),
/// }
///
/// impl MayBeCancelled for Trouble {
///     fn as_error(&self) -> &(dyn std::error::Error + 'static) { self }
/// }
///
/// assert!(Trouble::from(Cancelled::default()).is_cancelled());
/// assert!(!Trouble::NoSuchUser("eve".into()).is_cancelled());
/// ```
#[doc(alias = "get_cancelled_exc_class")]
pub trait MayBeCancelled: From<Cancelled> {
    /// The error itself: `self`, for nearly every type.
    fn as_error(&self) -> &(dyn StdError + 'static);

    /// Whether this is a cancellation. The provided method looks for one along [`source`](StdError::source), and inside
    /// of [`io::Error`].
    fn is_cancelled(&self) -> bool {
        is_cancellation(self.as_error())
    }
}

impl MayBeCancelled for Cancelled {
    fn as_error(&self) -> &(dyn StdError + 'static) {
        self
    }
}

impl MayBeCancelled for io::Error {
    fn as_error(&self) -> &(dyn StdError + 'static) {
        self
    }
}

impl MayBeCancelled for Box<dyn StdError> {
    fn as_error(&self) -> &(dyn StdError + 'static) {
        &**self
    }
}

impl MayBeCancelled for Box<dyn StdError + Send + Sync> {
    fn as_error(&self) -> &(dyn StdError + 'static) {
        &**self
    }
}

/// Whether a cancellation is in there.
pub(crate) fn is_cancellation(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<Cancelled>() || error.is::<AskedToStop>() {
            return true;
        }
        // The source of an `io::Error` is that of the error in it, not the error itself.
        if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && is_cancellation(inner)
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// A time limit passed before the work was done.
#[doc(alias = "TimeoutError")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
#[non_exhaustive]
pub struct TimedOut;

/// The object was closed by this side, so it cannot be used (any more).
#[doc(alias = "ClosedResourceError")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} is closed")]
#[non_exhaustive]
pub struct Closed {
    what: &'static str,
}

impl Closed {
    /// `what` is closed, for example `the stream`.
    pub const fn new(what: &'static str) -> Self {
        Self { what }
    }
}

/// Another task is using the same direction of the object already.
#[doc(alias = "BusyResourceError")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another task is already {action} this object")]
#[non_exhaustive]
pub struct Busy {
    action: &'static str,
}

impl Busy {
    /// Another task is `action`, for example `receiving from`.
    pub const fn new(action: &'static str) -> Self {
        Self { action }
    }

    /// What the other task is doing, for example `receiving from`.
    pub fn action(&self) -> &'static str {
        self.action
    }
}

/// What was asked for cannot be had without waiting: the lock is taken, the queue is empty, the buffer is full.
#[doc(alias = "QueueEmpty")]
#[doc(alias = "QueueFull")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, thiserror::Error)]
#[error("this would have to wait")]
#[non_exhaustive]
pub struct WouldBlock;

/// Nothing more will come: the other side has closed, and everything it sent was received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, thiserror::Error)]
#[error("the end of the stream")]
#[non_exhaustive]
pub struct EndOfStream;

/// The other side of the object has gone, or it was made useless by something else from outside.
#[doc(alias = "BrokenResourceError")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} is broken")]
#[non_exhaustive]
pub struct Broken {
    what: &'static str,
}

impl Broken {
    /// `what` is broken, for example `the stream`.
    pub const fn new(what: &'static str) -> Self {
        Self { what }
    }
}

/// The stream ended before there was as much as was asked for: a number of bytes, or a delimiter.
#[doc(alias = "IncompleteReadError")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stream ended after {} bytes{}", .partial.len(), .expected.map(|n| format!(" of {n}")).unwrap_or_default())]
#[non_exhaustive]
pub struct IncompleteRead {
    /// What there was; the stream does not have it any more.
    pub partial: Vec<u8>,
    /// How many bytes were asked for, where it was a number.
    pub expected: Option<usize>,
}

impl IncompleteRead {
    /// There were only these bytes.
    pub fn new(partial: Vec<u8>, expected: Option<usize>) -> Self {
        Self { partial, expected }
    }
}

/// A separator is not within the limit of a stream reader. The bytes stay in its buffer, and can be read.
#[doc(alias = "LimitOverrunError")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a separator was looked for in more bytes than the limit of the reader; {consumed} come before it")]
#[non_exhaustive]
pub struct LimitOverrun {
    /// So many bytes are certainly before the separator.
    pub consumed: usize,
}

impl LimitOverrun {
    pub(crate) const fn new(consumed: usize) -> Self {
        Self { consumed }
    }
}

/// So many bytes came without the delimiter. They stay in the buffer, and can be received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no delimiter within the first {max_bytes} bytes")]
#[non_exhaustive]
pub struct DelimiterNotFound {
    /// In how many bytes it was looked for.
    pub max_bytes: usize,
}

impl DelimiterNotFound {
    /// It was looked for in so many bytes.
    pub const fn new(max_bytes: usize) -> Self {
        Self { max_bytes }
    }
}

/// A stream, or what it wraps, has no such attribute.
#[doc(alias = "LookupError")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no attribute {attribute}")]
#[non_exhaustive]
pub struct TypedAttributeLookupError {
    attribute: &'static str,
}

impl TypedAttributeLookupError {
    pub(crate) const fn new(attribute: &'static str) -> Self {
        Self { attribute }
    }

    /// The name of the attribute.
    pub fn attribute(&self) -> &'static str {
        self.attribute
    }
}

/// Something was given back that was not taken before: a release too many, or by somebody who holds nothing.
#[doc(alias = "ValueError")]
#[doc(alias = "RuntimeError")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
#[non_exhaustive]
pub struct Unbalanced {
    what: &'static str,
}

impl Unbalanced {
    pub(crate) const fn new(what: &'static str) -> Self {
        Self { what }
    }
}

/// An item was not handed over: the item, and why.
///
/// Converts into an [`io::Error`], or, where a cancellation is the only reason, into [`Cancelled`]: so `?` works where
/// the item is not needed again.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unsent<T, E> {
    /// The caller's item.
    pub item: T,
    /// Why it was not taken.
    pub error: E,
}

impl<T, E> Unsent<T, E> {
    /// `item` was not taken because of `error`.
    pub fn new(item: T, error: E) -> Self {
        Self { item, error }
    }
}

// Whatever the item is.
impl<T, E: fmt::Debug> fmt::Debug for Unsent<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsent").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T, E: fmt::Display> fmt::Display for Unsent<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not sent: {}", self.error)
    }
}

impl<T, E: StdError + 'static> StdError for Unsent<T, E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.error)
    }
}

impl<T> From<Unsent<T, Cancelled>> for Cancelled {
    fn from(unsent: Unsent<T, Cancelled>) -> Self {
        unsent.error
    }
}

impl<T, E: Into<io::Error>> From<Unsent<T, E>> for io::Error {
    fn from(unsent: Unsent<T, E>) -> Self {
        unsent.error.into()
    }
}

/// The kernel cannot send this file to this stream by itself, and a fallback was not wanted.
#[doc(alias = "SendfileNotAvailableError")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel cannot send this file to this stream by itself: {}", io::Error::from_raw_os_error(*.errno))]
#[non_exhaustive]
pub struct SendfileNotAvailable {
    errno: i32,
}

impl SendfileNotAvailable {
    pub(crate) fn new(errno: i32) -> Self {
        Self { errno }
    }

    /// What the kernel said.
    pub fn os_error(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }
}

/// A worker process ended before it had a result: it crashed, or was killed.
#[doc(alias = "BrokenWorkerProcess")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker process ended before it had a result{}", .status.map(|s| format!(": {s}")).unwrap_or_default())]
#[non_exhaustive]
pub struct BrokenWorker {
    status: Option<ExitStatus>,
}

impl BrokenWorker {
    pub(crate) fn new(status: Option<ExitStatus>) -> Self {
        Self { status }
    }

    /// How the process ended, where that is known.
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }
}

/// A function in a worker process panicked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the function panicked in its worker process: {message}")]
#[non_exhaustive]
pub struct WorkerPanicked {
    message: Arc<str>,
}

impl WorkerPanicked {
    pub(crate) fn new(message: impl AsRef<str>) -> Self {
        Self { message: message.as_ref().into() }
    }

    /// The text of the panic.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// Why a [`Task`](crate::Task) gave no result.
#[non_exhaustive]
pub enum JoinError {
    /// The task was cancelled, or its loop ended before the task did. This is no cancellation of whoever waits, and no
    /// scope takes it for one.
    Cancelled(Cancelled),
    /// Not the task was cancelled, but the wait for it. The task goes on.
    WaitCancelled(Cancelled),
    /// The task panicked; this is what it panicked with.
    Panicked(Box<dyn Any + Send>),
}

impl JoinError {
    /// The text of the panic, where it has one.
    pub fn panic_message(&self) -> Option<&str> {
        match self {
            Self::Cancelled(_) | Self::WaitCancelled(_) => None,
            Self::Panicked(payload) => panic_message(payload.as_ref()),
        }
    }

    /// Raises the panic of the task again in the caller.
    ///
    /// # Errors
    /// Gives `self` back if the task did not panic.
    pub fn resume_panic(self) -> Result<std::convert::Infallible, Self> {
        match self {
            Self::Panicked(payload) => std::panic::resume_unwind(payload),
            other => Err(other),
        }
    }
}

/// The text of a panic payload, where it has one.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> Option<&str> {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled(cancelled) => write!(f, "task {cancelled}"),
            Self::WaitCancelled(cancelled) => write!(f, "the wait for the task was {cancelled}"),
            Self::Panicked(payload) => match panic_message(payload.as_ref()) {
                Some(text) => write!(f, "task panicked: {text}"),
                None => f.write_str("task panicked"),
            },
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinError({self})")
    }
}

impl StdError for JoinError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::WaitCancelled(cancelled) => Some(cancelled),
            Self::Cancelled(_) | Self::Panicked(_) => None,
        }
    }
}

/// An operation on an owned buffer failed: why, the buffer, and how many bytes were done before that.
///
/// Converts into its [`io::Error`], so `?` works where the buffer is not needed again.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failed<B> {
    /// What went wrong.
    pub error: io::Error,
    /// The caller's buffer.
    pub buf: B,
    /// Bytes transferred before the failure.
    pub done: usize,
}

impl<B> Failed<B> {
    /// After `done` bytes of `buf` there was `error`.
    pub fn new(error: io::Error, buf: B, done: usize) -> Self {
        Self { error, buf, done }
    }
}

impl<B> fmt::Display for Failed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (after {} bytes)", self.error, self.done)
    }
}

impl<B: fmt::Debug> StdError for Failed<B> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.error)
    }
}

impl<B> From<Failed<B>> for io::Error {
    fn from(failed: Failed<B>) -> Self {
        failed.error
    }
}

macro_rules! into_io_error {
    ($($error:ty => $kind:ident),* $(,)?) => {
        $(impl From<$error> for io::Error {
            fn from(error: $error) -> Self {
                io::Error::new(io::ErrorKind::$kind, error)
            }
        })*
    };
}

into_io_error! {
    Cancelled => Other,
    TimedOut => TimedOut,
    Closed => NotConnected,
    Busy => ResourceBusy,
    BrokenWorker => BrokenPipe,
    WorkerPanicked => Other,
    WouldBlock => WouldBlock,
    EndOfStream => UnexpectedEof,
    IncompleteRead => UnexpectedEof,
    LimitOverrun => InvalidData,
    DelimiterNotFound => InvalidData,
    TypedAttributeLookupError => NotFound,
    Broken => BrokenPipe,
    Unbalanced => InvalidInput,
    SendfileNotAvailable => Unsupported,
}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::WaitCancelled(cancelled) => cancelled.into(),
            // What a task panicked with need not be `Sync`, so it cannot travel inside.
            JoinError::Cancelled(_) | JoinError::Panicked(_) => io::Error::other(error.to_string()),
        }
    }
}
