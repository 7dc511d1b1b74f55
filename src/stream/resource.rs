//! What can be closed, and must not be left open.

use std::future::Future;
use std::io;

use crate::cancel::CancelScope;

/// Something that is closed, and may have to wait for that.
///
/// Dropping it closes it too, without a word to the peer where one is due.
pub trait AsyncResource {
    /// Closes it. Complete means closed; doing it twice does nothing. Whoever waits for it is told
    /// [`Closed`](crate::Closed).
    ///
    /// # Cancel safety
    /// *May have happened*: it is closed in any case, but not in order: what was to be sent may be lost.
    ///
    /// # Errors
    /// If something was to be done before and that failed; it is closed all the same.
    fn aclose(&self) -> impl Future<Output = io::Result<()>>;
}

/// Closes `resource` without waiting for anything: in a scope that is cancelled already.
///
/// # Cancel safety
/// *May have happened*: it is closed in any case.
///
/// # Errors
/// As [`aclose`](AsyncResource::aclose), but for the cancellation.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// use proactor::net::{TcpListener, TcpStream};
/// use proactor::stream::aclose_forcefully;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let listener = TcpListener::bind("127.0.0.1:0").await?;
///     let stream = TcpStream::connect(listener.local_addr()?).await?;
///     stream.write("perhaps never sent")?;
///     aclose_forcefully(&stream).await?;
///     assert!(stream.receive().await.is_err());
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[track_caller]
pub fn aclose_forcefully<R: AsyncResource + ?Sized>(
    resource: &R,
) -> impl Future<Output = io::Result<()>> + use<'_, R> {
    let scope = CancelScope::new();
    scope.cancel();
    async move { scope.run(resource.aclose()).await.map(|_| ()) }
}
