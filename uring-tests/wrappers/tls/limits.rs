//! What has an end though nobody says so: keys that are used up, a peer that takes nothing, several tasks at one stream.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::join;
use proactor::TimedOut;
use proactor::buf::{Chunk, IoBuf};
use proactor::cancel::move_on_after;
use proactor::fs::File;
use proactor::net::{TcpListener, TcpStream};
use proactor::stream::tls::rustls::crypto::ring::{cipher_suite, default_provider};
use proactor::stream::tls::rustls::{
    self, CipherSuiteCommon, ClientConfig, ProtocolVersion, SupportedCipherSuite, Tls12CipherSuite,
    Tls13CipherSuite,
};
use proactor::stream::tls::{TlsAttribute, TlsListener, TlsStream};
use proactor::stream::{
    AsyncResource, Attributes, ByteReceiveStream, ByteSendStream, ByteStream, Listener, MultiListener,
    TypedAttributeProvider,
};
use proactor::sync::Event;
use proactor::{Busy, EventLoop, Failed, spawn};

use crate::harness::{Cx, Folder, both_drivers, needs, open_descriptors, tcp_pair, turns, until};
use crate::wrappers::is;
use crate::wrappers::tls::records::{Plain, pattern, receive_all};
use crate::wrappers::tls::{client, roots, server, tls_pair, wrapped};

both_drivers!(
    keys_that_are_used_up_are_an_error_and_nothing_is_lost,
    keys_that_can_be_renewed_are_in_time,
    a_configuration_that_takes_data_before_the_handshake_is_refused,
    closing_does_not_wait_for_ever_for_a_peer_that_takes_nothing,
    a_receiver_leaves_the_sender_its_wake_up,
    the_time_limits_of_a_receiver_are_none_of_the_sender,
    nothing_gets_into_the_middle_of_a_file,
    listeners_as_one_go_on_with_handshakes_that_have_begun,
);

/// What this suite says about itself, but that its keys are good for so few records.
fn limited(common: &CipherSuiteCommon, records: u64) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: records,
    }
}

pub(super) fn client_with_limit(version: ProtocolVersion, records: u64) -> ClientConfig {
    let old = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    let suite = match (version, old, cipher_suite::TLS13_AES_128_GCM_SHA256) {
        (ProtocolVersion::TLSv1_2, SupportedCipherSuite::Tls12(suite), _) => {
            let common = limited(&suite.common, records);
            let (prf_provider, aead_alg) = (suite.prf_provider, suite.aead_alg);
            let suite = Tls12CipherSuite { common, prf_provider, kx: suite.kx, sign: suite.sign, aead_alg };
            SupportedCipherSuite::Tls12(Box::leak(Box::new(suite)))
        }
        (_, _, SupportedCipherSuite::Tls13(suite)) => {
            let common = limited(&suite.common, records);
            let (hkdf_provider, aead_alg) = (suite.hkdf_provider, suite.aead_alg);
            let suite = Tls13CipherSuite { common, hkdf_provider, aead_alg, quic: None };
            SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
        }
        _ => unreachable!("each suite is of its version"),
    };
    let provider = rustls::crypto::CryptoProvider { cipher_suites: vec![suite], ..default_provider() };
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("a version")
        .with_root_certificates(roots())
        .with_no_client_auth()
}

/// A client whose keys are good for so few records, and its server.
async fn short_lived(
    version: ProtocolVersion,
    records: u64,
) -> io::Result<(TlsStream<TcpStream>, TlsStream<TcpStream>)> {
    let (ours, theirs) = tcp_pair().await?;
    let config = Arc::new(client_with_limit(version, records));
    let ours = TlsStream::client(ours, "localhost").client_config(config).handshake();
    let (ours, theirs) = join!(ours, TlsStream::server(theirs, Arc::new(server())).handshake());
    let (ours, theirs) = (ours?, theirs?);
    assert_eq!(ours.extra(TlsAttribute::TLS_VERSION), Ok(version));
    Ok((ours, theirs))
}

fn keys_that_are_used_up_are_an_error_and_nothing_is_lost(cx: Cx) {
    cx.run(async {
        // In records of one byte, in several records for each send, and by the poll face.
        for size in [1, 300_000] {
            let (ours, theirs) = short_lived(ProtocolVersion::TLSv1_2, 100).await?;
            let reader = spawn(async move { receive_all(&theirs).await });
            let mut sent = 0;
            let failed = loop {
                match ours.send(vec![7; size]).await {
                    Ok(_) => sent += size,
                    Err(failed) => break failed,
                }
                assert!(sent < 100 << 14, "more records than the keys are good for");
            };
            assert_eq!(failed.error.kind(), io::ErrorKind::BrokenPipe, "{}", failed.error);
            sent += failed.done;
            assert!(sent > 0);
            assert_eq!(ours.send("x").await.expect_err("for good").error.kind(), io::ErrorKind::BrokenPipe);
            let faces = ours.poll_faces().expect("it has some");
            assert_eq!(faces.write("x".into()).expect_err("here too").kind(), io::ErrorKind::BrokenPipe);
            assert_eq!(reader.await??.len(), sent, "what was said to be sent");
        }
        Ok::<_, io::Error>(())
    });
}

fn keys_that_can_be_renewed_are_in_time(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = short_lived(ProtocolVersion::TLSv1_3, 10).await?;
        let reader = spawn(async move {
            // A reply, so that the peer's news about keys go both ways.
            theirs.send("hello").await?;
            receive_all(&theirs).await
        });
        let data = pattern(1 << 20);
        for piece in data[..1000].chunks(1) {
            ours.send(piece.to_vec()).await?;
        }
        ours.send(data[1000..].to_vec()).await?;
        ours.send_eof().await?;
        assert_eq!(&ours.receive().await?.expect("bytes")[..], b"hello");
        assert!(reader.await?? == data);
        Ok::<_, io::Error>(())
    });
}

fn a_configuration_that_takes_data_before_the_handshake_is_refused(cx: Cx) {
    cx.run(async {
        let mut config = server();
        config.max_early_data_size = 1;
        let (_ours, theirs) = tcp_pair().await?;
        let refused = TlsStream::server(theirs, Arc::new(config)).handshake().await.expect_err("refused");
        assert_eq!(refused.error.kind(), io::ErrorKind::InvalidInput);
        Ok::<_, io::Error>(())
    });
}

fn closing_does_not_wait_for_ever_for_a_peer_that_takes_nothing(cx: Cx) {
    if !needs(0, 100) {
        return;
    }
    for standard in [true, false] {
        cx.run_with(cx.builder().virtual_clock(true), async {
            let before = open_descriptors();
            let (ours, theirs) = tcp_pair().await?;
            let ours = TlsStream::client(ours, "localhost").client_config(Arc::new(client()));
            let ours = ours.standard_compatible(standard).handshake();
            let theirs = TlsStream::server(theirs, Arc::new(server())).handshake();
            let (ours, theirs) = join!(ours, theirs);
            let (ours, theirs) = (ours?, theirs?);
            // More than any buffer takes.
            ours.poll_faces().expect("it has some").write(pattern(20 << 20).into())?;
            let began = EventLoop::running()?.time();
            let error = ours.aclose().await.expect_err("not all was sent");
            assert!(is::<TimedOut>(&error), "{error}");
            let took = EventLoop::running()?.time() - began;
            assert!((29..40).contains(&took.as_secs()), "{took:?}");
            until(|| open_descriptors() == before + 1).await;
            drop((ours, theirs));
            Ok::<_, io::Error>(())
        });
    }
}

/// One side sends much to a peer that takes nothing at first, while another task receives there in its own way.
async fn sends_while<R: Future<Output = io::Result<()>>>(
    receives: impl FnOnce(Rc<TlsStream<Plain>>, Rc<Cell<bool>>) -> R,
) -> io::Result<()> {
    let (ours, theirs) = tcp_pair().await?;
    let (ours, theirs) = wrapped(Plain(ours), Plain(theirs)).await?;
    let (ours, takes) = (Rc::new(ours), Rc::new(Cell::new(false)));
    let data = pattern(8 << 20);
    let (stream, copy) = (ours.clone(), data.clone());
    let sender = spawn(async move {
        stream.send(copy).await?;
        stream.send_eof().await
    });
    let begun = takes.clone();
    let peer = spawn(async move {
        until(|| begun.get()).await;
        let all = receive_all(&theirs).await?;
        theirs.send("thanks").await?;
        Ok::<_, io::Error>((all, theirs))
    });
    turns(10).await; // the buffers are full
    receives(ours.clone(), takes).await?;
    sender.await??;
    let (all, theirs) = peer.await??;
    assert!(all == data);
    let (one, other) = join!(ours.aclose(), theirs.aclose());
    one.and(other)
}

fn a_receiver_leaves_the_sender_its_wake_up(cx: Cx) {
    cx.run(sends_while(async |stream, takes| {
        let receiver = spawn(async move { stream.receive().await });
        turns(5).await; // it has looked after the send too
        takes.set(true);
        assert_eq!(&receiver.await??.expect("bytes")[..], b"thanks");
        Ok(())
    }));
}

fn the_time_limits_of_a_receiver_are_none_of_the_sender(cx: Cx) {
    cx.run(sends_while(async |stream, takes| {
        for _ in 0..20 {
            let received = move_on_after(Duration::from_millis(1), stream.receive()).await?;
            assert!(received.is_none(), "the peer says nothing yet");
        }
        // Nobody receives now: only the sender goes on.
        takes.set(true);
        Ok(())
    }));
}

fn nothing_gets_into_the_middle_of_a_file(cx: Cx) {
    cx.run(async {
        let folder = Folder::new();
        let data = pattern(5_000_000);
        std::fs::write(folder.path("file"), &data)?;
        let file = File::open(folder.path("file")).await?;
        let (ours, theirs) = tls_pair().await?;
        let reader = spawn(async move { receive_all(&theirs).await });
        let (sent, ()) = join!(ours.send_file(&file, 0, None), async {
            let faces = ours.poll_faces().expect("it has some");
            for _ in 0..30 {
                let refused = ours.send("in between").await.expect_err("somebody sends");
                assert!(is::<Busy>(&refused.error), "{}", refused.error);
                assert!(is::<Busy>(&faces.write("in between".into()).expect_err("somebody sends")));
                proactor::yield_now().await;
            }
        });
        assert_eq!(sent?, 5_000_000);
        ours.send_eof().await?;
        assert!(reader.await?? == data);
        file.close().await
    });
}

/// Keeps what it receives back until it may give it.
struct Gated {
    stream: TcpStream,
    has_some: Rc<Cell<bool>>,
    may: Event,
}

impl AsyncResource for Gated {
    async fn aclose(&self) -> io::Result<()> {
        self.stream.aclose().await
    }
}

impl TypedAttributeProvider for Gated {
    fn extra_attributes(&self) -> Attributes<'_> {
        self.stream.extra_attributes()
    }
}

impl ByteReceiveStream for Gated {
    async fn receive(&self) -> io::Result<Option<Chunk>> {
        let received = self.stream.receive().await?;
        self.has_some.set(true);
        self.may.wait().await?;
        Ok(received)
    }
}

impl ByteSendStream for Gated {
    async fn send<B: IoBuf>(&self, buf: B) -> Result<B, Failed<B>> {
        self.stream.send(buf).await
    }
}

impl ByteStream for Gated {
    async fn send_eof(&self) -> io::Result<()> {
        self.stream.shutdown_write().await
    }
}

fn listeners_as_one_go_on_with_handshakes_that_have_begun(cx: Cx) {
    cx.run(async {
        let config = Arc::new(server());
        let (one, other) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let (quick, slow) = (one.local_addr()?, other.local_addr()?);
        let both = MultiListener::new([one, other].map(|one| TlsListener::new(one, config.clone())));
        let (has_some, may) = (Rc::new(Cell::new(false)), Event::new());
        let stream = TcpStream::connect(slow).await?;
        let gated = Gated { stream, has_some: has_some.clone(), may: may.clone() };
        let late = spawn(async move {
            TlsStream::client(gated, "localhost").client_config(Arc::new(client())).handshake().await
        });
        let first = spawn(async move {
            until(|| has_some.get()).await; // that handshake is half done
            let stream = TcpStream::connect(quick).await?;
            TlsStream::client(stream, "localhost")
                .client_config(Arc::new(client()))
                .handshake()
                .await
                .map_err(io::Error::from)
        });
        both.accept().await?.send("first").await?;
        assert_eq!(&first.await??.receive().await?.expect("bytes")[..], b"first");
        // And one that has been given up by its time.
        assert!(move_on_after(Duration::from_millis(5), both.accept()).await?.is_none());
        may.set();
        both.accept().await?.send("second").await?;
        assert_eq!(&late.await??.receive().await?.expect("bytes")[..], b"second");
        both.aclose().await
    });
}
