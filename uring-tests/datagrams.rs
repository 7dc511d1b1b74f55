//! UDP and UNIX datagrams, as their users see them.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::{join, poll};
use proactor::cancel::move_on_after;
use proactor::net::{SendOptions, UdpSocket, UnixDatagram};
use proactor::stream::{
    AsyncResource, UnreliableObjectReceiveStream, UnreliableObjectSendStream, UnreliableObjectStream,
    aclose_forcefully,
};
use proactor::{Closed, MayBeCancelled, metrics, spawn, yield_now};

use crate::harness::{Cx, Folder, both_drivers, open_descriptors, skip, turns, until};
use crate::wrappers::is;

both_drivers!(
    a_message_comes_out_of_the_buffer_that_it_came_into,
    messages_without_bytes_count_too,
    a_datagram_goes_there_and_its_answer_back,
    datagrams_of_every_size_come_whole,
    an_empty_datagram_is_one,
    a_cancelled_or_dropped_receive_loses_no_datagram,
    a_second_receiver_of_datagrams_is_told_that_it_is_busy,
    nobody_there_is_told_to_a_connected_socket,
    what_does_not_fit_into_an_own_buffer_is_reported,
    receives_into_own_buffers_and_pooled_ones_alternate,
    a_flood_is_bounded_and_what_is_queued_is_in_order,
    several_datagrams_come_in_one_batch,
    what_was_written_is_sent_by_the_flush,
    unix_datagrams_wait_for_room_and_keep_their_order,
    a_unix_datagram_names_its_sender_by_path_and_abstract_name,
    an_unconnected_send_waits_while_the_queue_is_full,
    control_messages_tell_what_was_asked_for,
    segments_are_sent_as_one_and_received_as_one,
    a_group_gets_what_is_sent_to_it,
    closing_ends_who_waits_and_frees_the_address,
    datagrams_outlive_their_loop,
    sockets_that_share_a_port_are_told_so,
    datagram_sockets_are_streams_of_objects,
    closing_a_socket_of_messages_tells_who_waits,
    a_forced_close_of_a_socket_of_messages_waits_for_nothing,
);

async fn pair() -> io::Result<(UdpSocket, UdpSocket)> {
    let server = UdpSocket::bind("127.0.0.1:0").await?;
    let client = UdpSocket::connect(server.local_addr()?).await?;
    Ok((client, server))
}

fn a_datagram_goes_there_and_its_answer_back(cx: Cx) {
    cx.run(async {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let server = UdpSocket::bind(address).await?;
            let client = UdpSocket::connect(server.local_addr()?).await?;
            assert_eq!(client.peer_addr()?, server.local_addr()?);
            for round in 0..3_u8 {
                client.send(vec![round; 10]).await?;
                let (bytes, source) = server.receive_from().await?;
                assert_eq!((&bytes[..], source), (&[round; 10][..], client.local_addr()?));
                server.send_to(bytes, source).await?;
                assert_eq!(&client.receive().await?[..], [round; 10]);
            }
            let std = std::net::UdpSocket::bind(address)?;
            let other = UdpSocket::from_std(std)?;
            other.send_to("hello", server.local_addr()?).await?;
            assert_eq!(server.receive_from().await?.1, other.local_addr()?);
        }
        Ok::<_, io::Error>(())
    });
}

fn datagrams_of_every_size_come_whole(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        for len in [1, 1472, 1473, 9000, 32_768, 65_506, 65_507] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let sent = client.send(bytes).await?;
            let message = server.receive_message().await?;
            assert!(!message.is_truncated() && message.sent_len() == len);
            assert!(message[..] == sent[..], "{len} bytes");
        }
        let failed = client.send(vec![0; 65_508]).await.expect_err("too long");
        assert_eq!((failed.error.raw_os_error(), failed.buf.len()), (Some(libc::EMSGSIZE), 65_508));
        Ok::<_, io::Error>(())
    });
}

fn an_empty_datagram_is_one(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        let (ours, theirs) = UnixDatagram::pair()?;
        for _ in 0..3 {
            client.send("").await?;
            client.send("x").await?;
            assert!(server.receive_from().await?.0.is_empty());
            assert_eq!(&server.receive().await?[..], b"x");
            ours.send("").await?;
            ours.send("y").await?;
            assert_eq!(theirs.receive_into(vec![0; 4]).await?, (0, vec![]));
            assert_eq!(&theirs.receive().await?[..], b"y");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_cancelled_or_dropped_receive_loses_no_datagram(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        for round in 0..60_u32 {
            match round % 3 {
                0 => assert!(poll!(pin!(server.receive())).is_pending()),
                1 => assert!(poll!(pin!(server.receive_into(vec![0; 100]))).is_pending()),
                _ => {
                    let limited = move_on_after(std::time::Duration::ZERO, async {
                        server.receive_into(vec![0; 100]).await.map(drop).map_err(io::Error::from)
                    });
                    assert!(limited.await?.is_none());
                }
            }
            client.send(round.to_le_bytes().to_vec()).await?;
            turns(round as usize % 4).await;
            assert_eq!(&server.receive().await?[..], round.to_le_bytes());
        }
        Ok::<_, io::Error>(())
    });
}

fn a_second_receiver_of_datagrams_is_told_that_it_is_busy(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        let mut first = pin!(server.receive());
        assert!(poll!(&mut first).is_pending());
        assert_eq!(server.receive().await.expect_err("busy").kind(), io::ErrorKind::ResourceBusy);
        let failed = server.receive_into(vec![7; 9]).await.expect_err("busy");
        assert_eq!((failed.error.kind(), failed.buf), (io::ErrorKind::ResourceBusy, vec![7; 9]));
        client.send("bytes").await?;
        assert_eq!(&first.await?[..], b"bytes");
        Ok::<_, io::Error>(())
    });
}

fn nobody_there_is_told_to_a_connected_socket(cx: Cx) {
    cx.run(async {
        let gone = UdpSocket::bind("127.0.0.1:0").await?;
        let address = gone.local_addr()?;
        gone.close().await?;
        let client = UdpSocket::connect(address).await?;
        for into in [false, true] {
            client.send("anybody?").await?;
            let refused = match into {
                false => client.receive().await.map(drop),
                true => client.receive_into(vec![0; 10]).await.map(drop).map_err(io::Error::from),
            };
            assert_eq!(refused.expect_err("nobody").kind(), io::ErrorKind::ConnectionRefused);
        }
        // The socket is well.
        let server = UdpSocket::bind(address).await?;
        client.send("somebody?").await?;
        assert_eq!(&server.receive().await?[..], b"somebody?");
        Ok::<_, io::Error>(())
    });
}

fn what_does_not_fit_into_an_own_buffer_is_reported(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        for armed in [false, true] {
            if armed {
                assert!(poll!(pin!(server.receive())).is_pending());
            }
            client.send(vec![5; 1000]).await?;
            let (received, buf) = server.receive_from_into(Vec::with_capacity(100)).await?;
            assert_eq!((received.len, received.sent_len), (100, 1000));
            assert_eq!((received.source, buf), (client.local_addr()?, vec![5; 100]));
        }
        // Bigger than a pooled buffer.
        let (ours, theirs) = UnixDatagram::pair()?;
        ours.send(vec![6; 100_000]).await?;
        let (received, buf) = theirs.receive_from_into(Vec::with_capacity(200_000)).await?;
        assert_eq!((received.len, received.sent_len, buf), (100_000, 100_000, vec![6; 100_000]));
        ours.send(vec![6; 100_000]).await?;
        let cut = theirs.receive_message().await?;
        assert!(cut.is_truncated() && cut.sent_len() == 100_000 && cut.len() > 65_536);
        ours.send(vec![6; 100_000]).await?;
        let error = theirs.receive().await.expect_err("no part is taken for the whole");
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        Ok::<_, io::Error>(())
    });
}

fn receives_into_own_buffers_and_pooled_ones_alternate(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        for round in 0..50_u8 {
            client.send(vec![round; 20]).await?;
            if round % 3 == 0 {
                assert_eq!(server.receive_into(vec![0; 64]).await?, (20, vec![round; 20]));
            } else {
                assert_eq!(&server.receive().await?[..], [round; 20]);
            }
        }
        Ok::<_, io::Error>(())
    });
}

fn a_flood_is_bounded_and_what_is_queued_is_in_order(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        assert!(poll!(pin!(server.receive())).is_pending());
        for number in 0..2000_u32 {
            client.send(number.to_le_bytes().to_vec()).await?;
        }
        turns(20).await;
        let held = metrics().buffers_in_use;
        assert!((1..256).contains(&held), "{held} datagrams are held");
        let (mut last, mut count) = (None, 0);
        loop {
            let limit = move_on_after(std::time::Duration::from_millis(50), server.receive());
            let Some(bytes) = limit.await? else { break };
            let number = u32::from_le_bytes(bytes[..].try_into().expect("four bytes"));
            assert!(last < Some(number), "{number} after {last:?}");
            (last, count) = (Some(number), count + 1);
        }
        assert!(count >= 128, "{count} datagrams of 2000");
        Ok::<_, io::Error>(())
    });
}

fn several_datagrams_come_in_one_batch(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        let mut batch = Vec::new();
        assert!(poll!(pin!(server.receive_batch(&mut batch, 5))).is_pending());
        for number in 0..12_u8 {
            client.send(vec![number]).await?;
        }
        // Without multishot receives, one comes in a turn.
        turns(20).await;
        assert_eq!(server.receive_batch(&mut batch, 5).await?, 5);
        assert_eq!(server.receive_batch(&mut batch, 100).await?, 7);
        let numbers: Vec<u8> = batch.iter().map(|message| message[0]).collect();
        assert_eq!(numbers, (0..12).collect::<Vec<u8>>());
        assert!(batch.iter().all(|message| message.source().ok() == client.local_addr().ok()));
        Ok::<_, io::Error>(())
    });
}

fn what_was_written_is_sent_by_the_flush(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        let address = client.local_addr()?;
        for number in 0..20_u8 {
            client.write(vec![number; 3])?;
            server.write_to(vec![number; 2], address)?;
        }
        client.flush().await?;
        server.flush().await?;
        for number in 0..20_u8 {
            assert_eq!(&server.receive().await?[..], [number; 3]);
            assert_eq!(&client.receive().await?[..], [number; 2]);
        }
        client.write(vec![0; 70_000])?;
        client.write("small")?;
        let error = client.flush().await.expect_err("one was too long");
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        client.flush().await?;
        assert_eq!(&server.receive().await?[..], b"small");
        // The closing flushes, too.
        client.write("last")?;
        client.close().await?;
        assert_eq!(&server.receive().await?[..], b"last");
        Ok::<_, io::Error>(())
    });
}

fn unix_datagrams_wait_for_room_and_keep_their_order(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixDatagram::pair()?;
        let sender = spawn(async move {
            for number in 0..500_u32 {
                if number % 5 == 0 {
                    ours.write(number.to_le_bytes().to_vec())?;
                } else {
                    ours.send(number.to_le_bytes().to_vec()).await?;
                }
            }
            ours.close().await
        });
        turns(30).await;
        assert!(!sender.is_finished(), "the queue of a UNIX socket is shorter");
        for number in 0..500_u32 {
            assert_eq!(&theirs.receive().await?[..], number.to_le_bytes());
        }
        sender.await??;
        // Everybody who waits for the turn is served, or leaves it to the next.
        let (ours, theirs) = UnixDatagram::pair()?;
        let ours = std::rc::Rc::new(ours);
        let senders: Vec<_> = (0..50_u8)
            .map(|number| {
                let ours = ours.clone();
                spawn(async move { ours.send(vec![number]).await.map(drop).map_err(io::Error::from) })
            })
            .collect();
        turns(5).await;
        for sender in senders.iter().skip(20).step_by(3) {
            sender.cancel("not any more");
        }
        let mut sent = 0;
        let receiver = spawn(async move {
            let mut received = Vec::new();
            while let Ok(bytes) = theirs.receive().await {
                match bytes[0] {
                    0xFF => break,
                    number => received.push(number),
                }
            }
            received
        });
        for sender in senders {
            match sender.await? {
                Ok(()) => sent += 1,
                Err(error) => assert!(error.is_cancelled(), "{error}"),
            }
        }
        ours.send(vec![0xFF]).await?;
        let received = receiver.await?;
        assert!(received.is_sorted() && received.len() == sent, "{sent} were sent: {received:?}");
        assert!(sent >= 20);
        Ok::<_, io::Error>(())
    });
}

fn a_unix_datagram_names_its_sender_by_path_and_abstract_name(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let server = UnixDatagram::bind(folder.path("server"))?;
        let client = UnixDatagram::bind(folder.path("client"))?;
        client.send_to("one", folder.path("server")).await?;
        let (bytes, source) = server.receive_from().await?;
        assert_eq!((&bytes[..], source.as_pathname()), (&b"one"[..], Some(&*folder.path("client"))));
        server.send_to_addr("two", &source).await?;
        assert_eq!(&client.receive().await?[..], b"two");
        let name = format!("\0proactor-{}", folder.path("").display());
        let hidden = UnixDatagram::bind(&name)?;
        hidden.send_to("three", folder.path("server")).await?;
        let (_, source) = server.receive_from().await?;
        assert!(source.as_pathname().is_none() && !source.is_unnamed());
        server.send_to_addr("four", &source).await?;
        assert_eq!(&hidden.receive().await?[..], b"four");
        let nameless = UnixDatagram::unbound()?;
        nameless.connect(folder.path("server"))?;
        nameless.send("five").await?;
        let (_, source) = server.receive_from().await?;
        assert!(source.is_unnamed());
        let failed = server.send_to_addr("six", &source).await.expect_err("it has no name");
        assert_eq!(failed.error.kind(), io::ErrorKind::InvalidInput);
        Ok::<_, io::Error>(())
    });
}

fn an_unconnected_send_waits_while_the_queue_is_full(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("server");
        let server = UnixDatagram::bind(&path)?;
        let client = UnixDatagram::unbound()?;
        let sender = spawn(async move {
            for number in 0..100_u8 {
                client.send_to(vec![number], &path).await?;
            }
            Ok::<_, io::Error>(())
        });
        turns(20).await;
        assert!(!sender.is_finished());
        for number in 0..100_u8 {
            assert_eq!(&server.receive().await?[..], [number]);
        }
        sender.await??;
        // Connected, but not to one that is connected back: a queue of some ten.
        let client = UnixDatagram::unbound()?;
        client.connect(folder.path("server"))?;
        let sender = spawn(async move {
            for number in 0..100_u8 {
                client.send(vec![number; 3]).await?;
            }
            Ok::<_, io::Error>(())
        });
        for number in 0..100_u8 {
            assert_eq!(&server.receive().await?[..], [number; 3]);
        }
        sender.await??;
        Ok::<_, io::Error>(())
    });
}

fn control_messages_tell_what_was_asked_for(cx: Cx) {
    cx.run(async {
        for (any, here) in [("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "::1"), ("[::]:0", "127.0.0.1")] {
            let server = UdpSocket::builder().dual_stack(true);
            let server = if any.starts_with('[') { server } else { UdpSocket::builder() };
            let server = server.bind(any).await?;
            server.set_receive_packet_info(true)?;
            server.set_receive_hop_limit(true)?;
            server.set_receive_traffic_class(true)?;
            server.set_receive_timestamps(true)?;
            let to = SocketAddr::new(here.parse().expect("an address"), server.local_addr()?.port());
            let client = UdpSocket::connect(to).await?;
            let options = SendOptions::new().hop_limit(17).traffic_class(0b1010_0001);
            client.send_message("hello", options).await?;
            let message = server.receive_message().await?;
            let destination = message.destination().expect("it was asked for");
            assert_eq!(destination.to_canonical(), to.ip());
            assert_eq!(message.interface(), Some(1), "loopback");
            assert_eq!((message.hop_limit(), message.ecn()), (Some(17), Some(1)), "{any} {here}");
            assert_eq!(message.traffic_class(), Some(0b1010_0001));
            let age = message.timestamp().expect("asked for").elapsed().expect("the past");
            assert!(age.as_secs() < 60);
            // The answer comes from where the question went to.
            let answer = SendOptions::new().to(message.source()?).source(destination);
            server.send_message("hello yourself", answer).await?;
            assert_eq!(&client.receive().await?[..], b"hello yourself");
        }
        Ok::<_, io::Error>(())
    });
}

fn segments_are_sent_as_one_and_received_as_one(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        let bytes: Vec<u8> = (0..4_500_u32).map(|at| (at % 251) as u8).collect();
        let options = SendOptions::new().segment_size(1000);
        if let Err(failed) = client.send_message(bytes.clone(), options).await {
            skip(&format!("no segmentation here: {}", failed.error));
            return Ok(());
        }
        for part in bytes.chunks(1000) {
            assert_eq!(&server.receive().await?[..], part);
        }
        if server.set_gro(true).is_err() {
            skip("no UDP_GRO here");
            return Ok(());
        }
        client.send_message(bytes.clone(), options).await?;
        let mut parts = 0;
        while parts < 5 {
            let message = server.receive_message().await?;
            for segment in message.segments() {
                assert_eq!(segment, bytes.chunks(1000).nth(parts).expect("five parts"));
                parts += 1;
            }
        }
        Ok::<_, io::Error>(())
    });
}

fn a_group_gets_what_is_sent_to_it(cx: Cx) {
    cx.run(async {
        let group = "239.255.77.1".parse().expect("an address");
        let members = [0; 2].map(|_| UdpSocket::builder().reuse_address(true));
        let mut port = 0;
        let mut joined = Vec::new();
        for member in members {
            let member = member.bind(("0.0.0.0", port)).await?;
            port = member.local_addr()?.port();
            member.join_multicast(group, 1)?;
            joined.push(member);
        }
        let sender = UdpSocket::bind("127.0.0.1:0").await?;
        sender.set_multicast_interface(1)?;
        sender.set_multicast_hops(1)?;
        sender.set_multicast_loop(true)?;
        sender.send_to("all of you", (group, port).into()).await?;
        for member in &joined {
            assert_eq!(&member.receive().await?[..], b"all of you");
        }
        joined[0].leave_multicast(group, 1)?;
        let again = joined[0].leave_multicast(group, 1).expect_err("it left");
        assert_eq!(again.kind(), io::ErrorKind::AddrNotAvailable);
        let broadcast = SocketAddr::new("255.255.255.255".parse().expect("an address"), port);
        let refused = sender.send_to("x", broadcast).await.expect_err("not asked for");
        assert_eq!(refused.error.kind(), io::ErrorKind::PermissionDenied);
        sender.set_broadcast(true)?;
        Ok::<_, io::Error>(())
    });
}

fn closing_ends_who_waits_and_frees_the_address(cx: Cx) {
    cx.run(async {
        let (client, server) = pair().await?;
        let address = server.local_addr()?;
        client.send("early").await?;
        let _ = poll!(pin!(server.receive()));
        turns(3).await;
        let poller = poll_fn(|cx| server.poll_receive_message(cx)).await?;
        assert_eq!(&poller[..], b"early");
        drop(poller);
        assert!(poll!(pin!(poll_fn(|cx| server.poll_receive_message(cx)))).is_pending());
        server.close().await?;
        UdpSocket::bind(address).await?.close().await?;
        // A close that is dropped closes.
        let other = UdpSocket::bind(address).await?;
        let _ = poll!(pin!(other.receive()));
        let _ = poll!(pin!(other.close()));
        turns(3).await;
        UdpSocket::bind(address).await?.close().await
    });
}

fn datagrams_outlive_their_loop(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let (kept, server) = event_loop
        .run_until_complete(async {
            let (client, server) = pair().await?;
            client.send("kept").await?;
            let kept = server.receive_message().await?;
            let _ = poll!(pin!(server.receive()));
            Ok::<_, io::Error>((kept, server))
        })
        .expect("the loop runs")
        .expect("a datagram");
    drop(event_loop);
    assert_eq!(&kept[..], b"kept");
    drop(server);
}

fn sockets_that_share_a_port_are_told_so(cx: Cx) {
    cx.run(async {
        let first = UdpSocket::builder().reuse_port(true).bind("127.0.0.1:0").await?;
        let address = first.local_addr()?;
        let second = UdpSocket::builder().reuse_port(true).bind(address).await?;
        assert_eq!(second.local_addr()?, address);
        let refused = UdpSocket::bind(address).await.expect_err("it does not share");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        let (a, b) = join!(first.close(), second.close());
        a.and(b)
    });
}

fn a_message_comes_out_of_the_buffer_that_it_came_into(cx: Cx) {
    for moment in 0..8 {
        cx.run_with(cx.builder().buffer_limit(2 * (68 << 10)), async {
            let server = UdpSocket::bind("127.0.0.1:0").await?;
            let client = UdpSocket::connect(server.local_addr()?).await?;
            // More than there are buffers, so that the next one comes into a spare buffer …
            let mut held = Vec::new();
            for number in 0..8_u8 {
                client.send(vec![number; 100]).await?;
                held.push(server.receive().await?);
            }
            let receiving = spawn(async move { server.receive_from().await });
            turns(3).await;
            client.send("new").await?;
            for _ in 0..moment {
                yield_now().await;
            }
            // … though buffers come back before it does.
            held.clear();
            let (bytes, source) = receiving.await??;
            assert_eq!((&bytes[..], source), (&b"new"[..], client.local_addr()?), "after {moment} turns");
            Ok::<_, io::Error>(())
        });
    }
}

fn messages_without_bytes_count_too(cx: Cx) {
    cx.run(async {
        let server = UdpSocket::bind("127.0.0.1:0").await?;
        let client = UdpSocket::connect(server.local_addr()?).await?;
        let one = client.write("")?;
        assert!(one > 0, "a limit would never be met");
        assert_eq!(client.write("")?, 2 * one);
        client.flush().await
    });
}

/// Sends something from one to the other, and back to where it came from.
async fn there_and_back<A: std::fmt::Debug, S>(ours: &S, theirs: &S, address: A) -> io::Result<()>
where
    S: UnreliableObjectReceiveStream<Item = (Bytes, A)>
        + UnreliableObjectSendStream<Item = (Bytes, A)>
        + UnreliableObjectStream,
{
    ours.send((Bytes::from("there"), address)).await?;
    let (bytes, source) = theirs.receive().await?.expect("a datagram");
    assert_eq!(&bytes[..], b"there");
    theirs.send((Bytes::from("back"), source)).await?;
    assert_eq!(&ours.receive().await?.expect("a datagram").0[..], b"back");
    theirs.aclose().await?;
    assert!(is::<Closed>(&theirs.receive().await.expect_err("closed")));
    Ok(())
}

fn datagram_sockets_are_streams_of_objects(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let (ours, theirs) = (UdpSocket::bind("127.0.0.1:0").await?, UdpSocket::bind("127.0.0.1:0").await?);
        there_and_back(&ours, &theirs, theirs.local_addr()?).await?;
        let bind = |name| UnixDatagram::bind(folder.path(name));
        let (ours, theirs) = (bind("ours")?, bind("theirs")?);
        there_and_back(&ours, &theirs, theirs.local_addr()?).await?;
        // What cannot be sent comes back.
        let nameless = UnixDatagram::unbound()?.local_addr()?;
        let send = UnreliableObjectSendStream::send(&ours, (Bytes::from("x"), nameless));
        let unsent = send.await.expect_err("nobody has no name");
        assert_eq!((&unsent.item.0[..], unsent.error.kind()), (&b"x"[..], io::ErrorKind::InvalidInput));
        Ok::<_, io::Error>(())
    });
}

fn closing_a_socket_of_messages_tells_who_waits(cx: Cx) {
    cx.run(async {
        for into in [false, true] {
            let before = open_descriptors();
            let (ours, theirs) = UnixDatagram::pair()?;
            let ours = Rc::new(ours);
            let receiving = {
                let ours = ours.clone();
                spawn(async move {
                    match into {
                        true => ours.receive_into(vec![0; 8]).await.map(drop).map_err(|failed| failed.error),
                        false => ours.receive().await.map(drop),
                    }
                })
            };
            // So many that the last ones wait for room.
            let mut written = 0_u32;
            while written < 1000 {
                ours.write(written.to_le_bytes().to_vec())?;
                written += 1;
            }
            let sending = {
                let ours = ours.clone();
                spawn(async move { ours.send("behind them").await.map(drop) })
            };
            turns(3).await;
            assert!(!receiving.is_finished() && !sending.is_finished());
            let closing = {
                let ours = ours.clone();
                spawn(async move { ours.aclose().await })
            };
            assert!(is::<Closed>(&receiving.await?.expect_err("closed")));
            assert!(is::<Closed>(&sending.await?.expect_err("closed").error));
            assert!(!closing.is_finished(), "what was written goes out first");
            assert!(is::<Closed>(&ours.write("too late").expect_err("closed")));
            for number in 0..written {
                assert_eq!(&theirs.receive().await?[..], number.to_le_bytes());
            }
            closing.await??;
            ours.aclose().await?;
            assert_eq!(open_descriptors(), before + 1);
            drop((ours, theirs));
            until(|| open_descriptors() == before).await;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_forced_close_of_a_socket_of_messages_waits_for_nothing(cx: Cx) {
    cx.run(async {
        let before = open_descriptors();
        let (ours, theirs) = UnixDatagram::pair()?;
        let ours = Rc::new(ours);
        for _ in 0..1000 {
            ours.write("nobody reads")?;
        }
        let receiving = {
            let ours = ours.clone();
            spawn(async move { ours.receive_into(vec![0; 8]).await.map(drop) })
        };
        turns(3).await;
        aclose_forcefully(&*ours).await?;
        assert!(is::<Closed>(&receiving.await?.expect_err("closed").error));
        // The handle is still there, but not the descriptor.
        until(|| open_descriptors() == before + 1 && metrics().in_flight == 0).await;
        drop((ours, theirs));
        until(|| open_descriptors() == before).await;
        Ok::<_, io::Error>(())
    });
}
