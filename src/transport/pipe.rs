//! Pipes whose events go to a protocol.

use std::future::Future;
use std::io;
use std::rc::Rc;

use crate::driver::control;
use crate::net::{PipeReader, PipeWriter};
use crate::transport::below::{Below, Way};
use crate::transport::connect::attach;
use crate::transport::handle::Transport;
use crate::transport::protocol::IntoProtocol;

/// Gives what comes out of a pipe to the protocol that `protocol_factory` makes. Complete means that the protocol was told
/// of it.
///
/// When nobody has the other end open any more, `eof_received` is called, and the transport closes whatever that returns.
/// Nothing can be written to it.
///
/// # Cancel safety
/// *Data already received is lost*, and the pipe closed.
///
/// # Errors
/// If it is cancelled.
///
/// # Panics
/// If the factory does.
///
/// # Examples
/// ```
/// use std::cell::RefCell;
/// use proactor::buf::Chunk;
/// use proactor::net::pipe;
/// use proactor::sync::Event;
/// use proactor::transport::{Protocol, Transport, connect_read_pipe, connect_write_pipe};
///
/// struct Collect { data: RefCell<Vec<u8>>, over: Event }
///
/// impl Protocol for Collect {
///     fn data_received(&self, data: Chunk) {
///         self.data.borrow_mut().extend_from_slice(&data);
///     }
///     fn connection_lost(&self, _: Option<std::io::Error>) {
///         self.over.set();
///     }
/// }
///
/// struct Silent;
/// impl Protocol for Silent {}
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let (reader, writer) = pipe().await?;
///     let collect = || Collect { data: RefCell::default(), over: Event::new() };
///     let (_, collected) = connect_read_pipe(collect, reader).await?;
///     let (writing, _) = connect_write_pipe(|| Silent, writer).await?;
///     writing.write("hello")?;
///     writing.close();
///     collected.over.wait().await?;
///     assert_eq!(&collected.data.borrow()[..], b"hello");
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
pub fn connect_read_pipe<P: IntoProtocol>(
    protocol_factory: impl FnOnce() -> P,
    pipe: PipeReader,
) -> impl Future<Output = io::Result<(Transport, Rc<P>)>> {
    async move { attach(protocol_factory, Below::Socket(pipe.into_shared(), Way::In)).await }
}

/// Makes a transport of the end of a pipe that bytes go into, with the protocol that `protocol_factory` makes. Complete
/// means that the protocol was told of it.
///
/// When nobody reads any more, the transport closes: `connection_lost` is told `BrokenPipe` if something was still to be
/// written, and else nothing. That is noticed of pipes and sockets; of terminals and other files when something is written.
///
/// # Cancel safety
/// *May have happened*: the pipe is closed.
///
/// # Errors
/// If it is cancelled.
///
/// # Panics
/// If the factory does.
///
/// # Kernel
/// `IORING_OP_POLL_ADD` (5.1) notices that nobody reads any more; on epoll, `EPOLLERR`.
pub fn connect_write_pipe<P: IntoProtocol>(
    protocol_factory: impl FnOnce() -> P,
    pipe: PipeWriter,
) -> impl Future<Output = io::Result<(Transport, Rc<P>)>> {
    async move {
        let shared = pipe.into_shared();
        let kind = shared.descriptor.with(|fd| control::file_kind(fd));
        let is_watched = kind.is_ok_and(|kind| matches!(kind, libc::S_IFIFO | libc::S_IFSOCK));
        attach(protocol_factory, Below::Socket(shared, Way::Out { is_watched })).await
    }
}
