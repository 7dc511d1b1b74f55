//! How transports that speak TLS end, and what is done to them at odd moments.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use proactor::Busy;
use proactor::net::TcpStream;
use proactor::stream::tls::TlsStream;
use proactor::stream::{AsyncResource, ByteReceiveStream};
use proactor::transport::{
    Protocol, SendfileOptions, Tls, Transport, connect_accepted_socket, connect_accepted_tls,
};

use crate::harness::{Cx, both_drivers, tcp_pair, turns, until};
use crate::wrappers::tls::{client, server};

both_drivers!(what_is_written_behind_the_goodbye_is_dropped, a_file_is_refused_while_tls_is_started,);

#[derive(Default)]
struct Notes {
    lost: Cell<bool>,
    error: RefCell<Option<io::Error>>,
}

impl Protocol for Notes {
    fn connection_lost(&self, error: Option<io::Error>) {
        assert!(!self.lost.replace(true), "exactly once");
        self.error.replace(error);
    }
}

fn of_server() -> Tls {
    Tls::server(Arc::new(server()))
}

/// A transport, and a TLS stream at the other end.
async fn pair() -> io::Result<(Transport, Rc<Notes>, TlsStream<TcpStream>)> {
    let (ours, theirs) = tcp_pair().await?;
    let theirs = TlsStream::client(theirs, "localhost").client_config(Arc::new(client())).handshake();
    let ours = connect_accepted_tls(Notes::default, ours, of_server());
    let (ours, theirs) = futures_util::join!(ours, theirs);
    let (transport, protocol) = ours?;
    Ok((transport, protocol, theirs.map_err(io::Error::from)?))
}

fn what_is_written_behind_the_goodbye_is_dropped(cx: Cx) {
    cx.run(async {
        let (transport, protocol, theirs) = pair().await?;
        transport.write("last")?;
        transport.close();
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"last");
        assert!(theirs.receive().await?.is_none(), "the goodbye");
        transport.write("late")?;
        turns(3).await;
        assert!(!protocol.lost.get(), "it waits for the other goodbye");
        theirs.aclose().await?;
        until(|| protocol.lost.get()).await;
        assert!(protocol.error.borrow().is_none(), "{:?}", protocol.error.borrow());
        Ok::<_, io::Error>(())
    });
}

fn a_file_is_refused_while_tls_is_started(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let (transport, protocol) = connect_accepted_socket(Notes::default, ours).await?;
        {
            let mut start = pin!(transport.start_tls(of_server()));
            assert!(start.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            let zeros = std::fs::File::open("/dev/zero")?;
            let refused = transport.sendfile(&zeros, SendfileOptions::default()).await.expect_err("not now");
            assert!(refused.error.get_ref().is_some_and(|inner| inner.is::<Busy>()), "{}", refused.error);
        }
        until(|| protocol.lost.get()).await;
        assert!(theirs.receive().await.ok().flatten().is_none());
        Ok::<_, io::Error>(())
    });
}
