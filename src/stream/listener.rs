//! Whatever brings streams: the trait, and several listeners as one.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::cancel::TaskGroup;
use crate::error::MayBeCancelled;
use crate::net::serve::is_over;
use crate::runtime::exception::ExceptionContext;
use crate::runtime::{core, sleep};
use crate::stream::bytes::{BoxFuture, boxed_face};
use crate::stream::{
    AsyncResource, Attributes, ByteStream, DynAsyncResource, DynByteStream, TypedAttributeProvider,
};

/// How long to wait after an error that may not last; sockets that ran out of something wait longer by themselves.
const PAUSE: Duration = Duration::from_millis(10);

/// Brings streams, one for each peer that connects.
pub trait Listener: AsyncResource + TypedAttributeProvider {
    /// What it brings.
    type Stream: 'static;

    /// Completes with the next stream.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the stream goes to the next who asks. A listener that has to speak to the peer first says
    /// what it does instead.
    ///
    /// # Errors
    /// [`Closed`](crate::Closed), if this side closed the listener; what else went wrong.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>>;

    /// Takes what comes, and starts `handler` for each stream in a task of `group`. An error of a handler is one of the
    /// group: it cancels the rest. So a handler keeps to itself what concerns its own peer only.
    ///
    /// Where a stream cannot be accepted but the next one may be, as for want of descriptors, the exception handler of the
    /// loop is told, and it goes on after a pause.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: what was not accepted stays with the listener, and what was goes on in the group.
    ///
    /// # Errors
    /// If accepting fails for good; it ends in no other way but by cancelling.
    ///
    /// # Examples
    /// ```
    /// use std::io;
    /// use proactor::cancel::task_group;
    /// use proactor::net::{TcpListener, TcpStream};
    /// use proactor::stream::Listener;
    ///
    /// async fn echo(stream: &TcpStream) -> io::Result<()> {
    ///     while let Some(chunk) = stream.receive().await? {
    ///         stream.send(chunk).await?;
    ///     }
    ///     Ok(())
    /// }
    ///
    /// async fn serve_one(stream: TcpStream) -> io::Result<()> {
    ///     if let Err(error) = echo(&stream).await {
    ///         eprintln!("a client was lost: {error}"); // the others go on
    ///     }
    ///     Ok(())
    /// }
    ///
    /// # fn main() -> io::Result<()> {
    /// proactor::run(async {
    ///     let listener = TcpListener::bind("127.0.0.1:0").await?;
    ///     let address = listener.local_addr()?;
    ///     task_group(async |group| {
    ///         let tasks = group.clone();
    ///         group.start_soon(async move {
    ///             listener.serve_in(&tasks, serve_one).await
    ///         });
    ///         let stream = TcpStream::connect(address).await?;
    ///         stream.send("hello").await?;
    ///         assert_eq!(&stream.receive().await?.unwrap()[..], b"hello");
    ///         group.cancel_scope().cancel();
    ///         Ok::<_, io::Error>(())
    ///     })
    ///     .await?;
    ///     Ok::<_, io::Error>(())
    /// })
    /// # }
    /// ```
    #[doc(alias = "serve")]
    fn serve_in<E, H>(&self, group: &TaskGroup<E>, handler: H) -> impl Future<Output = io::Result<()>>
    where
        E: MayBeCancelled + 'static,
        H: AsyncFn(Self::Stream) -> Result<(), E> + 'static,
    {
        async move {
            let handler = Rc::new(handler);
            loop {
                match self.accept().await {
                    Ok(stream) => {
                        let handler = handler.clone();
                        group.start_soon(async move { handler(stream).await });
                    }
                    Err(error) if is_over(&error) => return Err(error),
                    Err(error) => {
                        let context = ExceptionContext::new("a stream could not be accepted");
                        core::current().call_exception_handler(&context.with_error(error));
                        sleep(PAUSE).await?;
                    }
                }
            }
        }
    }
}

/// [`Listener`] as a trait object, of byte streams: `Box<dyn DynListener>` is one.
pub trait DynListener: DynAsyncResource {
    /// As [`Listener::accept`].
    fn accept_dyn(&self) -> BoxFuture<'_, io::Result<Box<dyn DynByteStream>>>;
}

impl<L: Listener<Stream: ByteStream>> DynListener for L {
    fn accept_dyn(&self) -> BoxFuture<'_, io::Result<Box<dyn DynByteStream>>> {
        Box::pin(async move { Ok(Box::new(self.accept().await?) as Box<dyn DynByteStream>) })
    }
}

boxed_face!(DynListener);

impl Listener for Box<dyn DynListener + '_> {
    type Stream = Box<dyn DynByteStream>;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> {
        (**self).accept_dyn()
    }
}

/// Several listeners as one; `Box<dyn DynListener>` for listeners of different kinds.
///
/// Its attributes are those of all of them, and of the last one that has it.
#[derive(Debug)]
pub struct MultiListener<L> {
    listeners: Vec<L>,
    /// Which one is asked first, in turn, so that a busy one does not hide the others.
    first: Cell<usize>,
}

impl<L> MultiListener<L> {
    /// These listeners as one.
    pub fn new(listeners: impl IntoIterator<Item = L>) -> Self {
        Self { listeners: listeners.into_iter().collect(), first: Cell::new(0) }
    }

    /// The listeners.
    pub fn listeners(&self) -> &[L] {
        &self.listeners
    }

    /// The listeners, each for itself.
    pub fn into_listeners(self) -> Vec<L> {
        self.listeners
    }
}

impl<L: AsyncResource> AsyncResource for MultiListener<L> {
    /// Closes all of them, also if one fails.
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        async move {
            let mut first = Ok(());
            for listener in &self.listeners {
                first = first.and(listener.aclose().await);
            }
            first
        }
    }
}

impl<L: TypedAttributeProvider> TypedAttributeProvider for MultiListener<L> {
    fn extra_attributes(&self) -> Attributes<'_> {
        self.listeners.iter().fold(Attributes::new(), |all, one| all.merged(one.extra_attributes()))
    }
}

impl<L: Listener> Listener for MultiListener<L> {
    type Stream = L::Stream;

    fn accept(&self) -> impl Future<Output = io::Result<L::Stream>> {
        async move {
            let mut accepts: Vec<_> = self.listeners.iter().map(|one| Box::pin(one.accept())).collect();
            let first = self.first.replace(self.first.get().wrapping_add(1));
            accepts.rotate_left(first.checked_rem(self.listeners.len()).unwrap_or(0));
            poll_fn(|cx| {
                let ready = accepts.iter_mut().find_map(|accept| match accept.as_mut().poll(cx) {
                    Poll::Ready(accepted) => Some(accepted),
                    Poll::Pending => None,
                });
                ready.map_or(Poll::Pending, Poll::Ready)
            })
            .await
        }
    }

    fn serve_in<E, H>(&self, group: &TaskGroup<E>, handler: H) -> impl Future<Output = io::Result<()>>
    where
        E: MayBeCancelled + 'static,
        H: AsyncFn(Self::Stream) -> Result<(), E> + 'static,
    {
        async move {
            let handler = Rc::new(handler);
            let serve = |listener| {
                let handler = handler.clone();
                Box::pin(L::serve_in(listener, group, async move |stream| handler(stream).await))
            };
            let mut served: Vec<_> = self.listeners.iter().map(serve).collect();
            poll_fn(|cx| {
                let over = served.iter_mut().find_map(|serve| match serve.as_mut().poll(cx) {
                    Poll::Ready(over) => Some(over),
                    Poll::Pending => None,
                });
                over.map_or(Poll::Pending, Poll::Ready)
            })
            .await
        }
    }
}
