//! The two directions of a stream, for two tasks.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::buf::{Chunk, IoBuf, IoBufMut};
use crate::error::Failed;
use crate::net::Family;
use crate::net::shared::Shared;
use crate::net::stream::Receive;
use crate::op::net::{SendAll, SendVectored};

macro_rules! half {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name<F: Family> {
            pub(crate) shared: Rc<Shared>,
            family: PhantomData<F>,
        }

        impl<F: Family> $name<F> {
            pub(crate) fn new(shared: Rc<Shared>) -> Self {
                shared.add_handle();
                Self { shared, family: PhantomData }
            }

            pub(crate) fn shared(&self) -> &Shared {
                &self.shared
            }
        }

        impl<F: Family> Drop for $name<F> {
            fn drop(&mut self) {
                self.shared.drop_handle();
            }
        }

        impl<F: Family> fmt::Debug for $name<F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.shared).finish()
            }
        }
    };
}

half! {
    /// The receiving half of a stream; see [`Stream::split`](crate::net::Stream::split).
    ReceiveHalf
}

half! {
    /// The sending half of a stream; see [`Stream::split`](crate::net::Stream::split). Dropping it does not end the
    /// stream for the peer: [`shutdown_write`](Self::shutdown_write) does.
    SendHalf
}

impl<F: Family> ReceiveHalf<F> {
    /// As [`Stream::receive`](crate::net::Stream::receive).
    pub fn receive(&self) -> Receive<'_, F> {
        Receive::of(&self.shared)
    }

    /// As [`Stream::poll_receive`](crate::net::Stream::poll_receive).
    ///
    /// # Errors
    /// As there.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        self.shared.poll_receive(cx)
    }

    /// As [`Stream::receive_into`](crate::net::Stream::receive_into).
    ///
    /// # Errors
    /// As there.
    pub fn receive_into<B: IoBufMut>(
        &self,
        buf: B,
    ) -> impl Future<Output = Result<(usize, B), Failed<B>>> + use<'_, F, B> {
        self.shared.receive_into(buf)
    }
}

impl<F: Family> SendHalf<F> {
    /// As [`Stream::send`](crate::net::Stream::send).
    ///
    /// # Errors
    /// As there.
    pub fn send<B: IoBuf>(&self, buf: B) -> impl Future<Output = Result<B, Failed<B>>> + use<'_, F, B> {
        self.shared.send(SendAll::new(self.shared.clone(), buf))
    }

    /// As [`Stream::send_vectored`](crate::net::Stream::send_vectored).
    ///
    /// # Errors
    /// As there.
    pub fn send_vectored<B: IoBuf>(
        &self,
        bufs: Vec<B>,
    ) -> impl Future<Output = Result<Vec<B>, Failed<Vec<B>>>> + use<'_, F, B> {
        self.shared.send(SendVectored::new(self.shared.clone(), bufs))
    }

    /// As [`Stream::write`](crate::net::Stream::write).
    ///
    /// # Errors
    /// As there.
    pub fn write(&self, data: impl Into<Bytes>) -> io::Result<usize> {
        self.shared.write(data.into())
    }

    /// As [`Stream::poll_flush`](crate::net::Stream::poll_flush).
    ///
    /// # Errors
    /// As there.
    pub fn poll_flush(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        self.shared.poll_flush(cx, below)
    }

    /// As [`Stream::flush`](crate::net::Stream::flush).
    ///
    /// # Errors
    /// As there.
    pub fn flush(&self) -> impl Future<Output = io::Result<()>> + use<'_, F> {
        poll_fn(|cx| self.shared.poll_flush(cx, 0))
    }

    /// As [`Stream::shutdown_write`](crate::net::Stream::shutdown_write).
    ///
    /// # Errors
    /// As there.
    pub fn shutdown_write(&self) -> impl Future<Output = io::Result<()>> + use<'_, F> {
        self.shared.shutdown_write()
    }
}
