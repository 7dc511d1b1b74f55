//! A listener whose streams are TLS streams.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::ServerConfig;

use crate::cancel::TaskGroup;
use crate::error::MayBeCancelled;
use crate::runtime::cancelling::cancellation_here;
use crate::runtime::scope::What;
use crate::runtime::wait::{Waiter, check};
use crate::runtime::{exception, here};
use crate::stream::bytes::BoxFuture;
use crate::stream::tls::attribute::TlsAttribute;
use crate::stream::tls::stream::TlsStream;
use crate::stream::tls::wrap::HandshakeFailed;
use crate::stream::{AsyncResource, Attributes, ByteStream, Listener, TypedAttributeProvider};

type OnError<S> = Rc<dyn Fn(HandshakeFailed<S>)>;
type Handshake<S> = BoxFuture<'static, io::Result<Option<TlsStream<S>>>>;

/// Makes a TLS stream of each stream that another listener brings.
///
/// [`serve_in`](Listener::serve_in) does the handshakes in the tasks of the streams, so a slow one holds nobody up.
/// [`accept`](Listener::accept) does them one by one, so there each peer may hold up the next ones. For a limit of connections and an orderly end use the
/// [`serve`](crate::net::Listener::serve) of the sockets instead, with [`TlsStream::server`] in the handler.
pub struct TlsListener<L: Listener> {
    listener: L,
    shared: Shared<L::Stream>,
    /// Handshakes whose accept was given up: the next one goes on with them.
    begun: RefCell<Vec<Handshake<L::Stream>>>,
}

/// A handshake that an accept waits for, and that outlives it.
struct Begun<'a, L: Listener> {
    listener: &'a TlsListener<L>,
    handshake: Option<Handshake<L::Stream>>,
    waiter: Waiter,
}

impl<L: Listener> Begun<'_, L> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<TlsStream<L::Stream>>>> {
        ready!(check(cx))?;
        let handshake = self.handshake.as_mut().expect("it is over when it was ready");
        // In no scope: a time that one accept has must not end what the next one may go on with.
        let polled = here::in_no_scope(|| handshake.as_mut().poll(cx));
        match polled {
            Poll::Ready(_) => self.handshake = None,
            Poll::Pending => self.waiter.register_for(cx, What(&"a TLS handshake")),
        }
        polled
    }
}

impl<L: Listener> Drop for Begun<'_, L> {
    fn drop(&mut self) {
        if let Some(handshake) = self.handshake.take() {
            self.listener.begun.borrow_mut().push(handshake);
        }
    }
}

struct Shared<S> {
    config: Arc<ServerConfig>,
    standard_compatible: bool,
    limit: Duration,
    kernel_send: bool,
    on_error: OnError<S>,
}

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self { config: self.config.clone(), on_error: self.on_error.clone(), ..*self }
    }
}

impl<S: ByteStream + 'static> Shared<S> {
    /// `None`: it failed, and whoever is to be told was.
    async fn handshake(&self, stream: S) -> io::Result<Option<TlsStream<S>>> {
        let wrap = TlsStream::server(stream, self.config.clone())
            .standard_compatible(self.standard_compatible)
            .handshake_timeout(self.limit)
            .kernel_send(self.kernel_send);
        match wrap.handshake().await {
            Ok(tls) => Ok(Some(tls)),
            Err(failed) if failed.error.is_cancelled() => Err(failed.error),
            Err(failed) => {
                (self.on_error)(failed);
                Ok(None)
            }
        }
    }
}

impl<L: Listener> TlsListener<L> {
    /// TLS on what `listener` brings, with the configuration of a server.
    pub fn new(listener: L, config: Arc<ServerConfig>) -> Self {
        let on_error = Rc::new(|failed: HandshakeFailed<_>| exception::say(&failed));
        let shared = Shared {
            config,
            standard_compatible: true,
            limit: Duration::from_secs(30),
            kernel_send: false,
            on_error,
        };
        Self { listener, shared, begun: RefCell::default() }
    }

    /// As [`Wrap::standard_compatible`](crate::stream::tls::Wrap::standard_compatible), for each stream. Default: yes.
    #[must_use]
    pub fn standard_compatible(mut self, on: bool) -> Self {
        self.shared.standard_compatible = on;
        self
    }

    /// How long a handshake may take. Default: half a minute.
    #[must_use]
    pub fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.shared.limit = limit;
        self
    }

    /// As [`Wrap::kernel_send`](crate::stream::tls::Wrap::kernel_send), for each stream. Default: no.
    #[must_use]
    pub fn kernel_send(mut self, on: bool) -> Self {
        self.shared.kernel_send = on;
        self
    }

    /// Who is told of handshakes that failed, and gets their streams. Default: that is written to standard error, and the
    /// stream dropped.
    #[doc(alias = "handle_handshake_error")]
    #[must_use]
    pub fn on_handshake_error(mut self, f: impl Fn(HandshakeFailed<L::Stream>) + 'static) -> Self {
        self.shared.on_error = Rc::new(f);
        self
    }

    /// The wrapped listener.
    pub fn get_ref(&self) -> &L {
        &self.listener
    }
}

impl<L: Listener> AsyncResource for TlsListener<L> {
    fn aclose(&self) -> impl Future<Output = io::Result<()>> {
        let begun = self.begun.take();
        drop(begun);
        self.listener.aclose()
    }
}

impl<L: Listener> TypedAttributeProvider for TlsListener<L> {
    fn extra_attributes(&self) -> Attributes<'_> {
        let standard_compatible = self.shared.standard_compatible;
        self.listener
            .extra_attributes()
            .with(TlsAttribute::STANDARD_COMPATIBLE, move || Some(standard_compatible))
    }
}

impl<L: Listener<Stream: ByteStream>> Listener for TlsListener<L> {
    type Stream = TlsStream<L::Stream>;

    /// Completes with the next stream whose handshake succeeds.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the next accept goes on with a handshake that has begun. Until then the peer waits, and the
    /// time for the handshake runs.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> {
        async move {
            loop {
                let begun = self.begun.borrow_mut().pop();
                let handshake = match begun {
                    Some(handshake) => handshake,
                    None => {
                        let (shared, stream) = (self.shared.clone(), self.listener.accept().await?);
                        Box::pin(async move { shared.handshake(stream).await })
                    }
                };
                let mut begun = Begun { listener: self, handshake: Some(handshake), waiter: Waiter::new() };
                if let Some(tls) = poll_fn(|cx| begun.poll(cx)).await? {
                    return Ok(tls);
                }
            }
        }
    }

    fn serve_in<E, H>(&self, group: &TaskGroup<E>, handler: H) -> impl Future<Output = io::Result<()>>
    where
        E: MayBeCancelled + 'static,
        H: AsyncFn(Self::Stream) -> Result<(), E> + 'static,
    {
        let (shared, handler) = (self.shared.clone(), Rc::new(handler));
        self.listener.serve_in(group, async move |stream| {
            match shared.handshake(stream).await {
                Ok(Some(tls)) => handler(tls).await,
                Ok(None) => Ok(()),
                // Only a cancel is an error here.
                Err(_) => Err(cancellation_here().into()),
            }
        })
    }
}

impl<L: Listener + fmt::Debug> fmt::Debug for TlsListener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsListener").field("listener", &self.listener).finish_non_exhaustive()
    }
}
