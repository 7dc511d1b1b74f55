//! How transports that speak TLS end, and what is done to them at odd moments.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use proactor::net::{TcpListener, TcpStream};
use proactor::stream::tls::{Truncated, system_roots};
use proactor::stream::{AsyncResource, ByteReceiveStream, ByteSendStream};
use proactor::transport::{SendfileOptions, Tls, connect_accepted_socket, create_connection, create_server};
use proactor::{Busy, EventLoop, TimedOut, spawn};

use crate::harness::{Cx, both_drivers, patience, tcp_pair, turns, until};
use crate::transports::tls::{
    BIG, Notes, close, first, of_server, pattern, plain, to_server, with_stream, with_stream_and,
};
use crate::wrappers::tls::kernel::once_more;

both_drivers!(
    a_close_says_goodbye_and_an_abort_does_not,
    an_end_without_a_goodbye_is_an_error,
    a_close_takes_no_longer_than_its_limit,
    a_handshake_takes_no_longer_than_its_limit,
    a_peer_that_is_not_trusted_meets_no_protocol,
    a_handshake_that_fails_later_ends_the_connection_once,
    a_loop_that_closes_keeps_nothing,
    what_is_written_behind_the_goodbye_is_dropped,
    a_file_is_refused_while_tls_is_started,
);

once_more!(tls_endings {
    a_close_says_goodbye_and_an_abort_does_not,
    a_close_takes_no_longer_than_its_limit,
});

fn what_is_written_behind_the_goodbye_is_dropped(cx: Cx) {
    cx.run(async {
        let (transport, protocol, theirs) = with_stream().await?;
        transport.write("last")?;
        transport.close();
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"last");
        assert!(theirs.receive().await?.is_none(), "the goodbye");
        transport.write("late")?;
        turns(3).await;
        assert_eq!(protocol.lost.get(), 0, "it waits for the other goodbye");
        theirs.aclose().await?;
        protocol.over().await;
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
        protocol.over().await;
        assert!(theirs.receive().await.ok().flatten().is_none());
        Ok::<_, io::Error>(())
    });
}

fn a_close_says_goodbye_and_an_abort_does_not(cx: Cx) {
    cx.run(async {
        let (transport, protocol, theirs) = with_stream().await?;
        transport.write(pattern(BIG))?;
        transport.close();
        let mut count = 0;
        while let Some(chunk) = theirs.receive().await? {
            count += chunk.len();
        }
        assert_eq!(count, BIG, "close sends what was written");
        theirs.aclose().await?;
        protocol.over().await;
        let (transport, protocol, theirs) = with_stream().await?;
        transport.abort();
        protocol.over().await;
        assert!(protocol.error.borrow().is_none());
        let error = theirs.receive().await.expect_err("no goodbye");
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Truncated>()), "{error}");
        Ok::<_, io::Error>(())
    });
}

fn an_end_without_a_goodbye_is_an_error(cx: Cx) {
    cx.run(async {
        let (transport, protocol, theirs) = with_stream().await?;
        theirs.send("something").await?;
        drop(theirs);
        protocol.over().await;
        assert_eq!(*protocol.calls.borrow(), ["lost"]);
        let error = protocol.error.take().expect("an error");
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Truncated>()), "{error}");
        // After a close of this side it is none: there was nothing to be missed.
        drop(transport);
        let (transport, protocol, theirs) = with_stream().await?;
        transport.close();
        drop(theirs);
        protocol.over().await;
        assert!(protocol.error.borrow().is_none(), "{:?}", protocol.error);
        Ok::<_, io::Error>(())
    });
}

fn a_close_takes_no_longer_than_its_limit(cx: Cx) {
    const LIMIT: Duration = Duration::from_secs(7);
    // Without anything to be sent, and with a lot, to a peer that does nothing at all.
    for size in [0, BIG] {
        cx.run_with(cx.builder().virtual_clock(true), async move {
            let (transport, protocol, theirs) = with_stream_and(of_server().shutdown_timeout(LIMIT)).await?;
            transport.write(pattern(size))?;
            let begin = EventLoop::running()?.time();
            transport.close();
            while protocol.lost.get() == 0 {
                proactor::sleep(Duration::from_millis(100)).await?;
            }
            let error = protocol.error.take().expect("an error");
            assert!(error.get_ref().is_some_and(|inner| inner.is::<TimedOut>()), "{error}");
            let took = EventLoop::running()?.time() - begin;
            assert!(took >= LIMIT && took < 2 * LIMIT, "{took:?}");
            drop(theirs);
            Ok::<_, io::Error>(())
        });
    }
}

fn a_handshake_takes_no_longer_than_its_limit(cx: Cx) {
    const LIMIT: Duration = Duration::from_secs(5);
    cx.run_with(cx.builder().virtual_clock(true), async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let connect = create_connection(|| -> Notes { panic!("nobody is made") }, listener.local_addr()?);
        let error = connect.tls(to_server().handshake_timeout(LIMIT)).await.expect_err("a silent server");
        assert!(error.get_ref().is_some_and(|inner| inner.is::<TimedOut>()), "{error}");
        let make = || -> Notes { panic!("nobody is made") };
        let server = create_server(make, "127.0.0.1:0").tls(of_server().handshake_timeout(LIMIT)).await?;
        let silent = TcpStream::connect(first(&server)).await?;
        assert!(silent.receive().await.ok().flatten().is_none(), "it is closed in time");
        close(server).await
    });
}

fn a_peer_that_is_not_trusted_meets_no_protocol(cx: Cx) {
    cx.run(async {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let log = heard.clone();
        let event_loop = EventLoop::running()?;
        event_loop
            .set_exception_handler(Some(Rc::new(move |context| log.borrow_mut().push(context.to_string()))));
        let make = || -> Notes { panic!("nobody is made") };
        let server = create_server(make, "127.0.0.1:0").tls(of_server()).await?;
        let Ok(roots) = system_roots() else { return close(server).await };
        let distrustful = Arc::new(proactor::stream::tls::client_config(roots));
        for debug in [false, true] {
            event_loop.set_debug(debug);
            event_loop.set_slow_callback_duration(patience(100));
            let tls = Tls::client("localhost").client_config(distrustful.clone());
            let connect =
                create_connection(|| -> Notes { panic!("nobody is made") }, first(&server)).tls(tls);
            let error = connect.await.expect_err("it is not trusted");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            turns(20).await;
            if debug {
                until(|| !heard.borrow().is_empty()).await;
            }
            assert_eq!(heard.take().len(), usize::from(debug));
        }
        event_loop.set_debug(false);
        close(server).await
    });
}

fn a_handshake_that_fails_later_ends_the_connection_once(cx: Cx) {
    cx.run(async {
        let ((a, a_notes), (b, b_notes)) = plain().await?;
        b.write("this is no TLS, whatever it is")?;
        let error = a.start_tls(to_server()).await.expect_err("no TLS");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        a_notes.over().await;
        assert_eq!(a_notes.error.take().expect("told").kind(), io::ErrorKind::InvalidData);
        assert!(a_notes.data.borrow().is_empty());
        b.abort();
        b_notes.over().await;
        Ok::<_, io::Error>(())
    });
}

fn a_loop_that_closes_keeps_nothing(cx: Cx) {
    cx.run_and_keep(async {
        let (transport, _, theirs) = with_stream().await.expect("connected");
        transport.write(pattern(BIG)).expect("it is open");
        let server = create_server(Notes::default, "127.0.0.1:0").tls(of_server()).await.expect("a server");
        // In the middle of a handshake.
        let silent = TcpStream::connect(first(&server)).await.expect("connected");
        turns(3).await;
        let ((a, _), _b) = plain().await.expect("connected");
        drop(spawn(a.start_tls(to_server())));
        turns(3).await;
        drop((silent, theirs));
    });
}
