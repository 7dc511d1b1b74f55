//! TLS where the kernel encrypts what is sent: the same to both sides, and really by the kernel where it can.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use futures_util::{join, poll};
use proactor::buf::Chunk;
use proactor::compat::wait_writable;
use proactor::fs::File;
use proactor::net::{TcpStream, UnixStream};
use proactor::spawn;
use proactor::stream::tls::rustls::crypto::{CryptoProvider, ring};
use proactor::stream::tls::rustls::{CipherSuite, ClientConfig, ProtocolVersion, SupportedCipherSuite};
use proactor::stream::tls::{TlsAttribute, TlsListener, TlsStream, kernel_send_provider};
use proactor::stream::{
    AsyncResource, ByteReceiveStream, ByteSendStream, ByteStream, Listener, TypedAttributeProvider,
};

use crate::harness::{Cx, Folder, both_drivers, skip, tcp_pair, turns};
use crate::wrappers::tls::limits::client_with_limit;
use crate::wrappers::tls::records::{pattern, receive_all};
use crate::wrappers::tls::{by_kernel, client, roots, server, tls_pair, wrapped};

type Pair = (TlsStream<TcpStream>, TlsStream<TcpStream>);

both_drivers!(
    the_kernel_sends_only_where_it_can_and_it_is_said_which_it_is,
    the_kernel_sends_with_each_cipher_and_version,
    a_file_arrives_whole_without_anything_after_it,
    new_keys_are_taken_over_or_sending_ends,
    keys_of_the_kernel_are_used_up_in_time,
    what_is_on_its_way_counts_too,
    an_alert_or_new_keys_end_what_the_kernel_keeps_open,
    the_end_waits_until_the_kernel_has_room,
    what_was_left_to_the_kernel_cannot_be_unwrapped,
    a_listener_leaves_sending_to_the_kernel,
);

/// Tests of a module beside this one, or of this one, once more with the kernel that sends, if it can.
macro_rules! once_more {
    ($module:ident { $($name:ident),* $(,)? }) => {
        mod by_the_kernel {
            use $crate::harness::{Cx, both_drivers};
            use $crate::wrappers::tls::{by_kernel, kernel::streams_of_the_kernel};

            $(fn $name(cx: Cx) {
                let before = streams_of_the_kernel();
                by_kernel(|| super::super::$module::$name(cx));
                assert!(before.is_none() || streams_of_the_kernel() > before, "it was not the kernel");
            })*
            both_drivers!($($name),*);
        }
    };
}
pub(crate) use once_more;

once_more!(records {
    much_crosses_both_ways_at_once_with_back_pressure,
    the_end_of_tls_is_told_and_half_of_it_is_possible,
    closing_tells_who_waits_and_says_goodbye,
    closing_tells_a_sender_that_waits_and_drops_what_was_not_received,
    a_forced_close_waits_for_nothing_and_closes_below,
    cancelled_and_dropped_sends_leave_the_records_whole,
    a_file_is_sent_by_reading_it,
});

/// How many connections the kernel has sent on, ever; `None` if it cannot.
pub(crate) fn streams_of_the_kernel() -> Option<u64> {
    let counts = std::fs::read_to_string("/proc/net/tls_stat").ok()?;
    let count = counts.lines().find_map(|line| line.strip_prefix("TlsTxSw"))?;
    Some(count.trim().parse().expect("a number"))
}

/// Whether the kernel can do it at all; else the test is skipped.
pub(super) fn can() -> bool {
    let can = streams_of_the_kernel().is_some();
    if !can {
        skip("this kernel has no TLS, or its module `tls` is not loaded");
    }
    can
}

/// As numbers.
pub(super) fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("proc is mounted");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

pub(super) fn is_kernels(stream: &impl TypedAttributeProvider) -> bool {
    stream.extra(TlsAttribute::KERNEL_SEND).expect("TLS streams know that")
}

/// Both sides leave sending to the kernel.
pub(super) async fn pair(config: ClientConfig) -> io::Result<Pair> {
    let (ours, theirs) = tcp_pair().await?;
    by_kernel_both(ours, theirs, config).await
}

async fn by_kernel_both(ours: TcpStream, theirs: TcpStream, config: ClientConfig) -> io::Result<Pair> {
    let ours = TlsStream::client(ours, "localhost").client_config(Arc::new(config)).kernel_send(true);
    let theirs = TlsStream::server(theirs, Arc::new(server())).kernel_send(true);
    let (ours, theirs) = join!(ours.handshake(), theirs.handshake());
    Ok((ours?, theirs?))
}

fn with_provider(provider: CryptoProvider) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots())
        .with_no_client_auth()
}

pub(super) async fn receive_exactly(stream: &impl ByteReceiveStream, count: usize) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend_from_slice(&stream.receive().await?.expect("more"));
    }
    assert_eq!(all.len(), count);
    Ok(all)
}

pub(super) async fn close(one: &impl AsyncResource, other: &impl AsyncResource) -> io::Result<()> {
    let (one, other) = join!(one.aclose(), other.aclose());
    one.and(other)
}

fn the_kernel_sends_only_where_it_can_and_it_is_said_which_it_is(cx: Cx) {
    async fn talk<S: ByteStream + 'static>(ours: &TlsStream<S>, theirs: &TlsStream<S>) -> io::Result<()> {
        ours.send("there").await?;
        theirs.send("back").await?;
        assert_eq!(receive_exactly(theirs, 5).await?, b"there");
        assert_eq!(receive_exactly(ours, 4).await?, b"back");
        close(ours, theirs).await
    }
    cx.run(async {
        let (ours, theirs) = pair(client()).await?;
        let can = streams_of_the_kernel().is_some();
        assert_eq!((is_kernels(&ours), is_kernels(&theirs)), (can, can));
        talk(&ours, &theirs).await?;
        // Nobody asked.
        let (ours, theirs) = tls_pair().await?;
        assert!(!is_kernels(&ours) && !is_kernels(&theirs));
        talk(&ours, &theirs).await?;
        // The keys are not known.
        let (ours, theirs) = pair(with_provider(ring::default_provider())).await?;
        assert!(!is_kernels(&ours));
        talk(&ours, &theirs).await?;
        // No TCP.
        let (ours, theirs) = UnixStream::pair()?;
        let (ours, theirs) = by_kernel(|| wrapped(ours, theirs)).await?;
        assert!(!is_kernels(&ours) && !is_kernels(&theirs));
        talk(&ours, &theirs).await?;
        // The connection may be closed by halves.
        let (ours, theirs) = pair(client()).await?;
        theirs.send_eof().await?;
        theirs.get_ref().shutdown_write().await?;
        assert!(ours.receive().await?.is_none());
        ours.send("still").await?;
        assert_eq!(receive_exactly(&theirs, 5).await?, b"still");
        ours.aclose().await
    });
}

fn the_kernel_sends_with_each_cipher_and_version(cx: Cx) {
    if !can() {
        return;
    }
    cx.run(async {
        for suite in ring::ALL_CIPHER_SUITES {
            if format!("{:?}", suite.suite()).contains("RSA_")
                && !format!("{:?}", suite.suite()).contains("ECDSA")
            {
                continue; // the certificate is of the other kind
            }
            let provider = CryptoProvider { cipher_suites: vec![*suite], ..ring::default_provider() };
            let (ours, theirs) = pair(with_provider(kernel_send_provider(provider))).await?;
            assert_eq!(ours.extra(TlsAttribute::CIPHER), Ok(suite.suite()));
            let is_new = matches!(
                suite.suite(),
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            );
            assert_eq!(is_kernels(&ours), !is_new || kernel_version() >= (5, 11), "{suite:?}");
            assert_eq!(is_kernels(&ours), is_kernels(&theirs), "{suite:?}");
            let data = pattern(700_001);
            for (from, to) in [(&ours, &theirs), (&theirs, &ours)] {
                let send = async {
                    for byte in &data[..100] {
                        from.send(vec![*byte]).await?;
                    }
                    from.send(Vec::new()).await?;
                    from.send(data[100..400_000].to_vec()).await?;
                    let faces = from.poll_faces().expect("it has some");
                    for piece in data[400_000..].chunks(9_999) {
                        faces.write(Chunk::from(piece.to_vec()).into())?;
                    }
                    from.send_eof().await
                };
                let (sent, received) = join!(send, receive_all(to));
                sent?;
                assert!(received? == data, "{suite:?}");
            }
            close(&ours, &theirs).await?;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_file_arrives_whole_without_anything_after_it(cx: Cx) {
    if !can() {
        return;
    }
    cx.run(async {
        let folder = Folder::new();
        let data = pattern(3_000_000);
        std::fs::write(folder.path("file"), &data)?;
        let file = File::open(folder.path("file")).await?;
        let (ours, theirs) = pair(client()).await?;
        assert!(is_kernels(&ours));
        let parts = [
            (0, None),
            (1, Some(1)),
            (4097, Some(16_385)),
            (77, Some(65_537)),
            (12_345, Some(1_234_567)),
            (999_999, None),
            (2_999_999, Some(100)),
            (3_000_000, None),
            (0, Some(0)),
        ];
        for (offset, count) in parts {
            let from = usize::try_from(offset).expect("small");
            let to = count.map_or(data.len(), |count: usize| data.len().min(from + count));
            let count = count.map(|count| count as u64);
            let received = receive_exactly(&theirs, to - from);
            let (sent, received) = join!(ours.send_file(&file, offset, count), received);
            assert_eq!(sent?, (to - from) as u64);
            assert!(received? == data[from..to], "{offset}, {count:?}");
        }
        // A file whose length says nothing is read.
        let status = File::open("/proc/version").await?;
        let all = std::fs::read("/proc/version")?;
        let (sent, received) =
            join!(ours.send_file(&status, 3, None), receive_exactly(&theirs, all.len() - 3));
        assert_eq!(sent?, all.len() as u64 - 3);
        assert_eq!(received?, all[3..]);
        let (one, other) = join!(status.close(), file.close());
        one.and(other)?;
        close(&ours, &theirs).await
    });
}

fn new_keys_are_taken_over_or_sending_ends(cx: Cx) {
    if !can() {
        return;
    }
    let takes = kernel_version() >= (6, 14);
    cx.run(async {
        let (ours, theirs) = pair(client()).await?;
        if takes {
            for round in 0..3_u8 {
                ours.renew_keys()?;
                ours.send(vec![round; 100_000]).await?;
                assert!(receive_exactly(&theirs, 100_000).await?.iter().all(|byte| *byte == round));
                // They were asked for in the other direction too.
                theirs.poll_faces().expect("it has some").write(vec![round; 10].into())?;
                assert_eq!(receive_exactly(&ours, 10).await?, [round; 10]);
            }
            return close(&ours, &theirs).await;
        }
        ours.send("as always").await?;
        let refused = ours.renew_keys().expect_err("this kernel cannot");
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
        ours.send(" and on").await?;
        assert_eq!(receive_exactly(&theirs, 16).await?, b"as always and on");
        close(&ours, &theirs).await
    });
    cx.run(async {
        // A peer that can asks for them.
        let (ours, theirs) = tcp_pair().await?;
        let ours = TlsStream::client(ours, "localhost").client_config(Arc::new(client())).kernel_send(true);
        let theirs = TlsStream::server(theirs, Arc::new(server()));
        let (ours, theirs) = join!(ours.handshake(), theirs.handshake());
        let (ours, theirs) = (ours?, theirs?);
        ours.send("before").await?;
        theirs.renew_keys()?;
        theirs.send("now").await?;
        assert_eq!(receive_exactly(&ours, 3).await?, b"now");
        let sent = ours.send("after").await.map(drop);
        if takes {
            sent?;
            assert_eq!(receive_exactly(&theirs, 11).await?, b"beforeafter");
        } else {
            let refused = sent.expect_err("this kernel cannot").error;
            assert_eq!(refused.kind(), io::ErrorKind::Unsupported, "{refused}");
            assert_eq!(receive_exactly(&theirs, 6).await?, b"before");
            // What is received does not suffer from that.
            theirs.send("more").await?;
            assert_eq!(receive_exactly(&ours, 4).await?, b"more");
        }
        // The end can be told in any case.
        let (closed, received) = join!(ours.aclose(), async {
            let received = theirs.receive().await;
            theirs.aclose().await.and(received)
        });
        closed?;
        assert!(received?.is_none());
        Ok::<_, io::Error>(())
    });
}

/// The suite of `config`, whose keys are noted.
pub(super) fn noting(config: &ClientConfig) -> ClientConfig {
    let suites: Vec<SupportedCipherSuite> = config.crypto_provider().cipher_suites.clone();
    with_provider(kernel_send_provider(CryptoProvider { cipher_suites: suites, ..ring::default_provider() }))
}

fn keys_of_the_kernel_are_used_up_in_time(cx: Cx) {
    if !can() {
        return;
    }
    for (version, renews) in
        [(ProtocolVersion::TLSv1_2, false), (ProtocolVersion::TLSv1_3, kernel_version() >= (6, 14))]
    {
        cx.run(async {
            let (ours, theirs) = pair(noting(&client_with_limit(version, 50))).await?;
            assert!(is_kernels(&ours));
            let reader = spawn(async move { receive_all(&theirs).await });
            let mut sent = 0;
            let failed = loop {
                match ours.send(vec![7]).await {
                    Ok(_) => sent += 1,
                    Err(failed) => break Some(failed),
                }
                if sent == 200 {
                    break None;
                }
            };
            if renews {
                assert!(failed.is_none(), "{failed:?}");
                ours.send_eof().await?;
            } else {
                assert_eq!(failed.expect("an end").error.kind(), io::ErrorKind::BrokenPipe);
                assert!((40..50).contains(&sent), "{sent}");
                let faces = ours.poll_faces().expect("it has some");
                assert_eq!(faces.write("x".into()).expect_err("for good").kind(), io::ErrorKind::BrokenPipe);
            }
            // A clean end, since the peer was told.
            assert_eq!(reader.await??.len(), sent, "what was said to be sent");
            Ok::<_, io::Error>(())
        });
    }
}

/// A pair of sockets that hold little.
async fn small_pair(config: ClientConfig) -> io::Result<Pair> {
    let (ours, theirs) = tcp_pair().await?;
    ours.with_socket(|socket| socket.set_send_buffer_size(64 << 10))?;
    theirs.with_socket(|socket| socket.set_recv_buffer_size(64 << 10))?;
    by_kernel_both(ours, theirs, config).await
}

fn what_is_on_its_way_counts_too(cx: Cx) {
    if !can() {
        return;
    }
    cx.run(async {
        let limit = 600;
        let (ours, theirs) = small_pair(noting(&client_with_limit(ProtocolVersion::TLSv1_2, limit))).await?;
        assert!(is_kernels(&ours));
        // It may be 512 records, and goes on after this.
        assert!(poll!(pin!(ours.send(pattern(2 << 20)))).is_pending());
        let faces = ours.poll_faces().expect("it has some");
        let accepted = (0..limit).take_while(|_| faces.write("x".into()).is_ok()).count();
        assert!((80..=88).contains(&accepted), "{accepted}");
        assert_eq!(faces.write("x".into()).expect_err("used up").kind(), io::ErrorKind::BrokenPipe);
        // What was taken arrives, and then the end.
        assert_eq!(receive_all(&theirs).await?.len(), (2 << 20) + accepted);
        Ok::<_, io::Error>(())
    });
}

/// Leaves the kernel with an open record that it was told more of would come.
fn leave_open(stream: &TlsStream<TcpStream>, bytes: &[u8]) -> io::Result<()> {
    let sent = stream.get_ref().with_socket(|socket| socket.send_with_flags(bytes, libc::MSG_MORE))?;
    assert_eq!(sent, bytes.len());
    Ok(())
}

fn an_alert_or_new_keys_end_what_the_kernel_keeps_open(cx: Cx) {
    if !can() {
        return;
    }
    cx.run(async {
        let (ours, theirs) = small_pair(client()).await?;
        leave_open(&ours, b"open")?;
        if kernel_version() >= (6, 14) {
            ours.renew_keys()?;
            assert_eq!(receive_exactly(&theirs, 4).await?, b"open");
            ours.send("as ever").await?;
            assert_eq!(receive_exactly(&theirs, 7).await?, b"as ever");
            leave_open(&ours, b"open")?;
        }
        // On a full socket too. (It has room for the open record itself, and no more.)
        let fill = ours.get_ref().with_socket(|socket| {
            let mut count = 4;
            loop {
                match socket.send_with_flags(&pattern(999), libc::MSG_MORE | libc::MSG_DONTWAIT) {
                    Ok(sent) => count += sent,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                    Err(error) => return Err(error),
                }
            }
        })?;
        let (ended, received) = join!(ours.send_eof(), async {
            turns(10).await;
            receive_all(&theirs).await
        });
        ended?;
        assert_eq!(received?.len(), fill, "bytes, and an end that is none of them");
        close(&ours, &theirs).await
    });
}

fn the_end_waits_until_the_kernel_has_room(cx: Cx) {
    if !can() {
        return;
    }
    cx.run(async {
        let (ours, theirs) = small_pair(client()).await?;
        // Until it would take more still, but does not say so any more: a third of its room is left then.
        let mut sent = 0;
        let socket = ours.get_ref().with_socket(|socket| socket.try_clone())?;
        while {
            let mut room = pin!(wait_writable(&socket));
            let is_there = poll!(room.as_mut()).is_ready();
            turns(2).await;
            is_there || poll!(room.as_mut()).is_ready()
        } {
            ours.send(pattern(4000)).await?;
            sent += 4000;
        }
        let mut end = pin!(ours.send_eof());
        for _ in 0..20 {
            assert!(poll!(end.as_mut()).is_pending());
            turns(1).await;
        }
        let (ended, received) = join!(end, receive_all(&theirs));
        ended?;
        assert_eq!(received?.len(), sent);
        drop(socket);
        close(&ours, &theirs).await
    });
}

fn what_was_left_to_the_kernel_cannot_be_unwrapped(cx: Cx) {
    if !can() {
        return;
    }
    cx.run(async {
        let (ours, theirs) = pair(client()).await?;
        let refused = ours.unwrap().await.expect_err("the kernel would go on");
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
        drop(theirs);
        Ok::<_, io::Error>(())
    });
}

fn a_listener_leaves_sending_to_the_kernel(cx: Cx) {
    cx.run(async {
        let tcp = proactor::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = tcp.local_addr()?;
        let listener = TlsListener::new(tcp, Arc::new(server())).kernel_send(true);
        let told = Cell::new(false);
        let connect = async {
            let tcp = TcpStream::connect(address).await?;
            let tls =
                TlsStream::client(tcp, "localhost").client_config(Arc::new(client())).handshake().await?;
            let all = receive_all(&tls).await?;
            told.set(true);
            tls.aclose().await?;
            Ok::<_, io::Error>(all)
        };
        let serve = async {
            let tls = listener.accept().await?;
            assert_eq!(is_kernels(&tls), streams_of_the_kernel().is_some());
            tls.send(pattern(100_000)).await?;
            tls.send_eof().await?;
            while !told.get() {
                turns(1).await;
            }
            tls.aclose().await
        };
        let (received, served) = join!(connect, serve);
        served?;
        assert!(received? == pattern(100_000));
        listener.aclose().await
    });
}
