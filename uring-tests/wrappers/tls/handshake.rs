//! Who speaks with whom: certificates, names, protocols, limits, and connections that become TLS ones in their middle.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::join;
use proactor::cancel::task_group;
use proactor::net::{TcpListener, TcpStream};
use proactor::stream::tls::rustls::server::WebPkiClientVerifier;
use proactor::stream::tls::rustls::{self, ProtocolVersion, ServerConfig};
use proactor::stream::tls::{TlsAttribute, TlsListener, TlsStream, client_config, server_config};
use proactor::stream::{
    AsyncResource, BufferedByteStream, ByteReceiveStream, ByteSendStream, DynByteStream, Listener,
    SocketAttribute, TypedAttributeProvider,
};
use proactor::{TimedOut, spawn};

use crate::harness::{Cx, both_drivers, open_descriptors, patience, tcp_pair, until};
use crate::wrappers::is;
use crate::wrappers::tls::{chain_and_key, client, roots, server, tls_pair, wrapped};

both_drivers!(
    both_sides_know_what_was_agreed,
    a_server_without_the_name_or_the_trust_is_refused_and_told_why,
    a_client_without_a_certificate_is_refused_where_one_is_asked_for,
    the_older_version_works_too,
    a_peer_that_speaks_no_tls_is_an_error_with_the_stream,
    a_handshake_has_a_limit,
    a_handshake_that_is_dropped_leaves_nothing,
    a_connection_becomes_a_tls_one_in_its_middle_and_none_again,
    bytes_of_tls_that_came_too_early_are_not_lost,
    tls_works_in_tls_and_over_trait_objects,
    a_listener_serves_though_others_do_not_speak,
    names_that_are_none_are_refused,
);

fn tls_error(error: &io::Error) -> &rustls::Error {
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    error.get_ref().and_then(|inner| inner.downcast_ref()).expect("an error of TLS")
}

fn both_sides_know_what_was_agreed(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let port = theirs.local_addr()?.port();
        let (mut client, mut server) = (client(), server());
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        let ours = TlsStream::client(ours, "localhost").client_config(Arc::new(client)).handshake();
        let theirs = TlsStream::server(theirs, Arc::new(server)).standard_compatible(false).handshake();
        let (ours, theirs) = join!(ours, theirs);
        let (ours, theirs) = (ours?, theirs?);
        for (side, is_server) in [(&ours, false), (&theirs, true)] {
            assert_eq!(side.extra(TlsAttribute::TLS_VERSION), Ok(ProtocolVersion::TLSv1_3));
            assert_eq!(side.extra(TlsAttribute::ALPN_PROTOCOL), Ok(b"http/1.1".to_vec()));
            assert_eq!(side.extra(TlsAttribute::SERVER_SIDE), Ok(is_server));
            assert_eq!(side.extra(TlsAttribute::STANDARD_COMPATIBLE), Ok(!is_server));
            assert!(side.extra(TlsAttribute::CIPHER).is_ok());
        }
        assert_eq!(theirs.extra(TlsAttribute::SERVER_NAME).as_deref(), Ok("localhost"));
        assert!(ours.extra(TlsAttribute::PEER_CERTIFICATE).is_ok());
        assert_eq!(ours.extra(TlsAttribute::PEER_CERTIFICATES).map(|chain| chain.len()), Ok(1));
        assert!(theirs.extra(TlsAttribute::PEER_CERTIFICATE).is_err(), "the client showed none");
        assert_eq!(ours.extra(SocketAttribute::REMOTE_PORT), Ok(port), "of the stream below");
        Ok::<_, io::Error>(())
    });
}

fn a_server_without_the_name_or_the_trust_is_refused_and_told_why(cx: Cx) {
    cx.run(async {
        for (name, config) in
            [("example.org", client()), ("localhost", client_config(rustls::RootCertStore::empty()))]
        {
            let (ours, theirs) = tcp_pair().await?;
            let ours = TlsStream::client(ours, name).client_config(Arc::new(config)).handshake();
            let theirs = TlsStream::server(theirs, Arc::new(server())).handshake();
            let (ours, theirs) = join!(ours, theirs);
            let ours = ours.expect_err("not that one");
            assert!(matches!(tls_error(&ours.error), rustls::Error::InvalidCertificate(_)), "{}", ours.error);
            let theirs = theirs.expect_err("refused");
            assert!(matches!(tls_error(&theirs.error), rustls::Error::AlertReceived(_)), "{}", theirs.error);
        }
        Ok::<_, io::Error>(())
    });
}

fn a_client_without_a_certificate_is_refused_where_one_is_asked_for(cx: Cx) {
    fn asks() -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots()), provider.clone());
        let (chain, key) = chain_and_key(&["localhost"]);
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(chain, key)
            .expect("a configuration")
    }
    cx.run(async {
        for shows in [true, false] {
            let (ours, theirs) = tcp_pair().await?;
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(roots());
            let (chain, key) = chain_and_key(&["client.test"]);
            let config = match shows {
                true => config.with_client_auth_cert(chain.clone(), key).expect("a certificate"),
                false => config.with_no_client_auth(),
            };
            let ours = TlsStream::client(ours, "localhost").client_config(Arc::new(config)).handshake();
            let theirs = TlsStream::server(theirs, Arc::new(asks())).handshake();
            let (ours, theirs) = join!(ours, theirs);
            if shows {
                let shown = theirs?.extra(TlsAttribute::PEER_CERTIFICATES).expect("certificates");
                assert_eq!(shown, chain);
            } else {
                let refused = theirs.expect_err("no certificate");
                assert!(matches!(tls_error(&refused.error), rustls::Error::NoCertificatesPresented));
                drop(refused);
                // The client was done already, and hears of it with the first receive.
                let refused = ours?.receive().await.expect_err("refused");
                assert!(matches!(tls_error(&refused), rustls::Error::AlertReceived(_)), "{refused}");
            }
        }
        Ok::<_, io::Error>(())
    });
}

fn the_older_version_works_too(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let old = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .expect("versions")
            .with_root_certificates(roots())
            .with_no_client_auth();
        let ours = TlsStream::client(ours, "127.0.0.1").client_config(Arc::new(old)).handshake();
        let (ours, theirs) = join!(ours, TlsStream::server(theirs, Arc::new(server())).handshake());
        let (ours, theirs) = (ours?, theirs?);
        assert_eq!(theirs.extra(TlsAttribute::TLS_VERSION), Ok(ProtocolVersion::TLSv1_2));
        ours.send("hello").await?;
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"hello");
        let (ours, theirs) = join!(ours.aclose(), theirs.aclose());
        ours.and(theirs)
    });
}

fn a_peer_that_speaks_no_tls_is_an_error_with_the_stream(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        theirs.send("GET / HTTP/1.1\r\n\r\n").await?;
        let failed = TlsStream::server(ours, Arc::new(server())).handshake().await.expect_err("no TLS");
        assert!(matches!(tls_error(&failed.error), rustls::Error::InvalidMessage(_)), "{}", failed.error);
        assert_eq!(failed.stream.peer_addr()?, theirs.local_addr()?);

        let (ours, theirs) = tcp_pair().await?;
        theirs.shutdown_write().await?;
        let failed = TlsStream::server(ours, Arc::new(server())).handshake().await.expect_err("nobody");
        assert_eq!(failed.error.kind(), io::ErrorKind::UnexpectedEof);
        Ok::<_, io::Error>(())
    });
}

fn a_handshake_has_a_limit(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let wrap = TlsStream::client(ours, "localhost").client_config(Arc::new(client()));
        let failed =
            wrap.handshake_timeout(Duration::from_millis(20)).handshake().await.expect_err("silence");
        assert!(is::<TimedOut>(&failed.error), "{}", failed.error);
        drop(theirs);
        Ok::<_, io::Error>(())
    });
}

fn a_handshake_that_is_dropped_leaves_nothing(cx: Cx) {
    cx.run(async {
        let before = open_descriptors();
        let (ours, theirs) = tcp_pair().await?;
        let wrap = TlsStream::client(ours, "localhost").client_config(Arc::new(client()));
        let task = spawn(wrap.handshake());
        let hello = theirs.receive().await?.expect("the hello of the client");
        assert_eq!(hello[0], 22);
        task.cancel("enough");
        let failed = task.await?.expect_err("cancelled");
        drop((failed, theirs, hello));
        until(|| open_descriptors() == before).await;
        Ok::<_, io::Error>(())
    });
}

fn a_connection_becomes_a_tls_one_in_its_middle_and_none_again(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        ours.send("STARTTLS\r\n").await?;
        let theirs = BufferedByteStream::new(theirs);
        assert_eq!(theirs.receive_until("\r\n", 100).await?, "STARTTLS");
        let (theirs, early) = theirs.into_parts();
        assert!(early.is_empty());
        let (ours, theirs) = wrapped(ours, theirs).await?;
        ours.send("secret").await?;
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"secret");
        let (ours, theirs) = join!(ours.unwrap(), theirs.unwrap());
        let ((ours, rest), (theirs, more)) = (ours?, theirs?);
        assert!(rest.is_empty() && more.is_empty());
        ours.send("open").await?;
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"open");

        // What follows the end of TLS in the same receive is not lost.
        let (ours, theirs) = wrapped(ours, theirs).await?;
        let theirs = spawn(async move {
            let (theirs, _) = theirs.unwrap().await?;
            theirs.send("behind it").await?;
            Ok::<_, io::Error>(theirs)
        });
        let (ours, rest) = ours.unwrap().await?;
        let mut text: Vec<u8> = rest.iter().flat_map(|chunk| chunk.to_vec()).collect();
        while text.len() < 9 {
            text.extend_from_slice(&ours.receive().await?.expect("bytes"));
        }
        assert_eq!(text, b"behind it");
        drop(theirs.await??);
        Ok::<_, io::Error>(())
    });
}

fn bytes_of_tls_that_came_too_early_are_not_lost(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        // The client does not wait for an answer before it begins with TLS.
        let client = spawn(async move {
            ours.send("STARTTLS\r\n").await?;
            let tls =
                TlsStream::client(ours, "localhost").client_config(Arc::new(client())).handshake().await?;
            tls.send("secret").await?;
            tls.aclose().await
        });
        let theirs = BufferedByteStream::new(theirs);
        assert_eq!(theirs.receive_until("\r\n", 100).await?, "STARTTLS");
        // More of it, until a part of the hello is in the buffer.
        let first = theirs.receive_exactly(1).await?;
        let (theirs, rest) = theirs.into_parts();
        let wrap = TlsStream::server(theirs, Arc::new(server())).received(first).received(rest);
        let tls = wrap.handshake().await?;
        assert_eq!(&tls.receive().await?.expect("bytes")[..], b"secret");
        assert!(tls.receive().await?.is_none());
        tls.aclose().await?;
        client.await?
    });
}

fn tls_works_in_tls_and_over_trait_objects(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tls_pair().await?;
        let (ours, theirs) = wrapped(ours, theirs).await?;
        let (ours, theirs): (Box<dyn DynByteStream>, Box<dyn DynByteStream>) =
            (Box::new(ours), Box::new(theirs));
        let (ours, theirs) = wrapped(ours, theirs).await?;
        let data: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let task = spawn(async move {
            while let Some(chunk) = theirs.receive().await? {
                theirs.send(chunk).await?;
            }
            theirs.aclose().await
        });
        let receive = async {
            let mut all = Vec::new();
            while all.len() < data.len() {
                all.extend_from_slice(&ours.receive().await?.expect("bytes"));
            }
            Ok::<_, io::Error>(all)
        };
        let (sent, received) = join!(ours.send(data.clone()), receive);
        sent?;
        assert!(received? == data);
        ours.aclose().await?;
        task.await?
    });
}

fn a_listener_serves_though_others_do_not_speak(cx: Cx) {
    cx.run(async {
        let failures: Rc<RefCell<Vec<io::Error>>> = Rc::default();
        let (told, served) = (failures.clone(), Rc::new(Cell::new(0)));
        let count = served.clone();
        let outcome = task_group(async |group| {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let listener = TlsListener::new(listener, Arc::new(server()))
                .handshake_timeout(patience(2))
                .on_handshake_error(move |failed| told.borrow_mut().push(failed.error));
            assert_eq!(listener.extra(SocketAttribute::LOCAL_PORT), Ok(address.port()));
            let tasks = group.clone();
            group.start_soon(async move {
                let echo = async move |tls: TlsStream<TcpStream>| {
                    while let Some(chunk) = tls.receive().await? {
                        tls.send(chunk).await?;
                    }
                    count.set(count.get() + 1);
                    tls.aclose().await
                };
                let served = listener.serve_in(&tasks, echo).await;
                listener.aclose().await?;
                served
            });
            let silent = TcpStream::connect(address).await?;
            let nonsense = TcpStream::connect(address).await?;
            nonsense.send("nonsense, and more of it").await?;
            for _ in 0..3 {
                let tcp = TcpStream::connect(address).await?;
                let tls = TlsStream::client(tcp, "localhost").client_config(Arc::new(client()));
                let tls = tls.handshake().await?;
                tls.send("hello").await?;
                assert_eq!(&tls.receive().await?.expect("bytes")[..], b"hello");
                tls.aclose().await?;
            }
            assert!(silent.receive().await?.is_none(), "its time was over");
            until(|| served.get() == 3 && failures.borrow().len() == 2).await;
            group.cancel_scope().cancel();
            Ok::<_, io::Error>(())
        });
        outcome.await?;
        let failures = failures.borrow();
        assert!(
            failures.iter().any(is::<TimedOut>) && failures.iter().any(is::<rustls::Error>),
            "{failures:?}"
        );
        Ok::<_, io::Error>(())
    });
}

fn names_that_are_none_are_refused(cx: Cx) {
    cx.run(async {
        for name in ["", "no name", "-"] {
            let (ours, _theirs) = tcp_pair().await?;
            let wrap = TlsStream::client(ours, name).client_config(Arc::new(client()));
            let failed = wrap.handshake().await.expect_err("no name");
            assert_eq!(failed.error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        let (ours, theirs) = tcp_pair().await?;
        let (chain, key) = chain_and_key(&["xn--bcher-kva.example"]);
        let theirs = TlsStream::server(theirs, Arc::new(server_config(chain, key)?)).handshake();
        let ours = TlsStream::client(ours, "Bücher.example.").client_config(Arc::new(client())).handshake();
        let (ours, theirs) = join!(ours, theirs);
        ours?;
        assert_eq!(theirs?.extra(TlsAttribute::SERVER_NAME).as_deref(), Ok("xn--bcher-kva.example"));
        Ok::<_, io::Error>(())
    });
}
