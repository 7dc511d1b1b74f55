//! Sockets of any kind, call by call.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::poll;
use proactor::cancel::move_on_after;
use proactor::net::Socket;
use proactor::{metrics, spawn};
use socket2::{Domain, SockAddr, Type};

use crate::harness::{Cx, both_drivers, open_descriptors, turns, until};

both_drivers!(
    a_connection_is_made_and_carries_bytes_call_by_call,
    a_cancelled_receive_leaves_its_bytes_to_the_next,
    messages_go_to_addresses_and_come_from_them,
    a_connect_that_is_refused_says_so,
    one_task_waits_for_readiness_and_another_is_told_so,
    a_big_send_waits_for_the_peer,
    a_dropped_send_that_its_peer_never_takes_holds_no_socket,
    a_receive_without_room_is_no_end,
);

async fn listening() -> io::Result<Socket> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM)?;
    listener.with_socket(|socket| {
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        socket.listen(16)
    })?;
    Ok(listener)
}

async fn pair() -> io::Result<(Socket, Socket)> {
    let listener = listening().await?;
    let client = Socket::new(Domain::IPV4, Type::STREAM)?;
    client.connect(&listener.local_addr()?).await?;
    let (server, address) = listener.accept().await?;
    assert_eq!(address.as_socket(), client.local_addr()?.as_socket());
    Ok((client, server))
}

fn a_connection_is_made_and_carries_bytes_call_by_call(cx: Cx) {
    cx.run(async {
        let listener = listening().await?;
        // A cancelled accept loses nobody.
        assert!(move_on_after(Duration::ZERO, listener.accept()).await?.is_none());
        let address = listener.local_addr()?;
        let connecting = spawn(async move {
            let client = Socket::new(Domain::IPV4, Type::STREAM)?;
            client.connect(&address).await?;
            Ok::<_, io::Error>(client)
        });
        let (server, _) = listener.accept().await?;
        let client = connecting.await??;
        client.send_all("hello, you").await?;
        assert_eq!(server.receive_into(vec![0; 5]).await?, (5, b"hello".to_vec()));
        let (count, buf) = server.receive_into(vec![0; 50]).await?;
        assert_eq!(&buf[..count], b", you");
        client.shutdown_write().await?;
        assert_eq!(server.receive_into(vec![0; 5]).await?.0, 0);
        server.send_all("bye").await?;
        assert_eq!(client.receive_into(vec![0; 5]).await?.0, 3);
        server.close().await?;
        assert_eq!(client.receive_into(vec![0; 5]).await?.0, 0);
        client.close().await
    });
}

fn a_cancelled_receive_leaves_its_bytes_to_the_next(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        for round in 0..40_u8 {
            if round % 2 == 0 {
                assert!(poll!(pin!(server.receive_into(vec![0; 10]))).is_pending());
            } else {
                let limited = move_on_after(Duration::ZERO, async {
                    server.receive_into(vec![0; 10]).await.map(drop).map_err(io::Error::from)
                });
                assert!(limited.await?.is_none());
            }
            client.send_all(vec![round; 10]).await?;
            turns(usize::from(round) % 4).await;
            let mut received = Vec::new();
            while received.len() < 10 {
                let (count, buf) = server.receive_into(vec![0; 4]).await?;
                assert!(count > 0);
                received.extend_from_slice(&buf[..count]);
            }
            assert_eq!(received, [round; 10]);
        }
        Ok::<_, io::Error>(())
    });
}

fn messages_go_to_addresses_and_come_from_them(cx: Cx) {
    cx.run(async {
        for (domain, address) in [
            (Domain::IPV4, SocketAddr::from(([127, 0, 0, 1], 0)).into()),
            (
                Domain::UNIX,
                SockAddr::unix(format!("\0proactor-socket-{}-{}", std::process::id(), cx.is_uring()))?,
            ),
        ] {
            let server = Socket::new(domain, Type::DGRAM)?;
            server.with_socket(|socket| socket.bind(&address))?;
            let client = Socket::from_fd(socket2::Socket::new(domain, Type::DGRAM, None)?)?;
            client.send_to("question", &server.local_addr()?).await?;
            let (received, buf) = server.receive_from_into(vec![0; 4]).await?;
            assert_eq!((received.len, received.sent_len, &buf[..4]), (4, 8, &b"ques"[..]));
            if domain == Domain::IPV4 {
                server.send_to("answer", &received.source).await?;
                assert_eq!(client.receive_into(vec![0; 10]).await?.0, 6);
            }
        }
        Ok::<_, io::Error>(())
    });
}

fn a_connect_that_is_refused_says_so(cx: Cx) {
    cx.run(async {
        let listener = listening().await?;
        let address = listener.local_addr()?;
        listener.close().await?;
        let client = Socket::new(Domain::IPV4, Type::STREAM)?;
        let refused = client.connect(&address).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        Ok::<_, io::Error>(())
    });
}

fn one_task_waits_for_readiness_and_another_is_told_so(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        server.wait_writable().await?;
        let mut first = pin!(server.wait_readable());
        assert!(poll!(&mut first).is_pending());
        let busy = server.wait_readable().await.expect_err("one waits already");
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        client.send_all("x").await?;
        first.await?;
        server.wait_readable().await?;
        assert_eq!(server.receive_into(vec![0; 5]).await?.0, 1);
        assert!(poll!(pin!(server.wait_readable())).is_pending());
        Ok::<_, io::Error>(())
    });
}

fn a_big_send_waits_for_the_peer(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        let sender = spawn(async move {
            let sent = client.send_all(vec![9; 8 << 20]).await?;
            client.close().await?;
            Ok::<_, io::Error>(sent.len())
        });
        turns(10).await;
        assert!(!sender.is_finished());
        let (mut received, mut buf) = (0, vec![0; 100_000]);
        loop {
            let (count, filled) = server.receive_into(buf).await?;
            if count == 0 {
                break;
            }
            received += count;
            buf = filled;
            buf.resize(100_000, 0);
        }
        assert_eq!((sender.await??, received), (8 << 20, 8 << 20));
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_send_that_its_peer_never_takes_holds_no_socket(cx: Cx) {
    cx.run(async {
        // Waiting for readiness takes descriptors once.
        let _other = pair().await?;
        turns(5).await;
        let before = open_descriptors();
        for closes in [true, false] {
            let (client, server) = pair().await?;
            let mut sending = Box::pin(client.send_all(vec![9; 64 << 20]));
            assert!(poll!(&mut sending).is_pending());
            turns(10).await;
            assert!(poll!(&mut sending).is_pending(), "nobody takes so much");
            drop(sending);
            turns(3).await;
            if closes {
                client.close().await?
            } else {
                drop(client)
            }
            until(|| metrics().in_flight == 0).await;
            // What the kernel had taken comes, and no more.
            let (mut received, mut buf) = (0, vec![0; 1 << 20]);
            loop {
                let (count, filled) = server.receive_into(buf).await?;
                if count == 0 {
                    break;
                }
                received += count;
                buf = filled;
                buf.resize(1 << 20, 0);
            }
            assert!((1..64 << 20).contains(&received), "{received} bytes came");
            drop(server);
            until(|| open_descriptors() == before).await;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_receive_without_room_is_no_end(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        client.send_all("hello").await?;
        server.wait_readable().await?;
        assert_eq!(server.receive_into(Vec::new()).await?, (0, Vec::new()));
        assert_eq!(server.receive_into(vec![0; 5]).await?, (5, b"hello".to_vec()));
        client.close().await?;
        assert_eq!(server.receive_into(vec![0; 5]).await?.0, 0);
        Ok::<_, io::Error>(())
    });
}
