//! The traits of streams, what implements them, and the wrappers around them.

mod buffered;
mod closing;
#[cfg(all(feature = "futures-io", feature = "tokio-io"))]
mod foreign_io;
#[cfg(all(feature = "futures-io", feature = "tokio-io", feature = "tls"))]
mod foreign_stream;
#[cfg(feature = "tls")]
pub(crate) mod tls;
mod traits;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;

use proactor::buf::{Chunk, IoBuf};
use proactor::stream::{
    AsyncResource, Attribute, Attributes, ByteReceiveStream, ByteSendStream, ByteStream,
    TypedAttributeProvider,
};
use proactor::{Failed, yield_now};

/// A stream of a user's own, made of plain `async fn`: gives these pieces, one for each receive, and keeps what is sent.
#[derive(Default)]
struct Script {
    pieces: RefCell<VecDeque<Vec<u8>>>,
    sent: RefCell<Vec<u8>>,
    ended: Cell<bool>,
    closed: Cell<u32>,
}

impl Script {
    const NAME: Attribute<&'static str> = Attribute::new("Script::NAME");

    fn new<P: AsRef<[u8]>>(pieces: impl IntoIterator<Item = P>) -> Self {
        let pieces = pieces.into_iter().map(|piece| piece.as_ref().to_vec()).collect();
        Self { pieces: RefCell::new(pieces), ..Self::default() }
    }
}

impl AsyncResource for Script {
    async fn aclose(&self) -> io::Result<()> {
        self.closed.set(self.closed.get() + 1);
        Ok(())
    }
}

impl TypedAttributeProvider for Script {
    fn extra_attributes(&self) -> Attributes<'_> {
        Attributes::new().with(Self::NAME, || Some("script"))
    }
}

impl ByteReceiveStream for Script {
    async fn receive(&self) -> io::Result<Option<Chunk>> {
        yield_now().await;
        Ok(self.pieces.borrow_mut().pop_front().map(Chunk::from))
    }
}

impl ByteSendStream for Script {
    async fn send<B: IoBuf>(&self, buf: B) -> Result<B, Failed<B>> {
        yield_now().await;
        if self.ended.get() {
            return Err(Failed::new(io::ErrorKind::BrokenPipe.into(), buf, 0));
        }
        self.sent.borrow_mut().extend_from_slice(buf.as_slice());
        Ok(buf)
    }
}

impl ByteStream for Script {
    async fn send_eof(&self) -> io::Result<()> {
        self.ended.set(true);
        Ok(())
    }
}

/// Whether this error has an `E` in it.
pub(crate) fn is<E: std::error::Error + 'static>(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<E>())
}
