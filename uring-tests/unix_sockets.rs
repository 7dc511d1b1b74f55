//! What only UNIX sockets have: messages of a connection, descriptors, files, names.

use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::poll;
use proactor::cancel::move_on_after;
use proactor::net::{UnixDatagram, UnixListener, UnixSeqpacket, UnixSeqpacketListener, UnixStream};
use proactor::stream::{
    AsyncResource, DynObjectReceiveStream, DynObjectSendStream, ObjectStream, UnreliableObjectReceiveStream,
    UnreliableObjectSendStream,
};
use proactor::{spawn, timeout};

use crate::faults::bind_to_all_of_a_name;
use crate::harness::{Cx, Folder, both_drivers, needs, open_descriptors, patience, turns, until};

both_drivers!(
    messages_of_a_connection_come_whole_until_its_end,
    an_empty_message_is_no_end,
    a_connection_of_messages_is_made_through_a_listener,
    a_cancelled_receive_loses_no_message,
    a_connection_of_messages_is_a_stream_of_objects,
    descriptors_pass_through_a_stream_with_their_bytes,
    descriptors_pass_with_messages,
    no_descriptor_is_left_when_nobody_takes_it,
    a_dropped_receive_of_descriptors_loses_none,
    descriptors_that_came_late_go_with_their_bytes_or_not_at_all,
    fewer_descriptors_expected_are_fewer_of_messages_that_came_too,
    who_does_not_read_holds_up_nobody_else,
    a_full_peer_holds_up_no_message_for_others,
    a_send_that_is_done_and_not_fetched_holds_up_nobody,
    a_name_that_std_does_not_know_costs_no_message,
    a_deep_queue_of_a_closed_loop_needs_no_deep_stack,
    more_descriptors_than_expected_are_closed,
    descriptors_without_bytes_are_refused,
    a_stale_socket_file_is_removed_and_a_live_one_is_not,
    the_file_of_a_listener_has_its_mode_and_goes_with_it,
    abstract_names_are_no_files,
);

fn messages_of_a_connection_come_whole_until_its_end(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixSeqpacket::pair()?;
        let sender = spawn(async move {
            for number in 0..300_u32 {
                ours.send(vec![number as u8; 1 + 17 * number as usize]).await?;
            }
            ours.shutdown_write().await?;
            assert_eq!(&ours.receive().await?.expect("an answer")[..], b"thanks");
            ours.close().await
        });
        for number in 0..300_u32 {
            let len = 1 + 17 * number as usize;
            if number % 4 == 0 {
                let (count, buf) = theirs.receive_into(Vec::with_capacity(8000)).await?;
                assert_eq!((count, buf), (len, vec![number as u8; len]));
            } else {
                assert_eq!(&theirs.receive().await?.expect("a message")[..], vec![number as u8; len]);
            }
        }
        assert!(theirs.receive().await?.is_none());
        assert_eq!(theirs.receive_into(vec![0; 8]).await?.0, 0);
        theirs.send("thanks").await?;
        sender.await??;
        let failed = theirs.send("too late").await.expect_err("nobody is there");
        assert_eq!(failed.error.kind(), io::ErrorKind::BrokenPipe);
        assert!(theirs.receive().await?.is_none());
        Ok::<_, io::Error>(())
    });
}

fn an_empty_message_is_no_end(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixSeqpacket::pair()?;
        for into in [false, true] {
            for message in ["", "", "one", "", "two"] {
                ours.send(message).await?;
            }
            turns(3).await;
            for message in ["", "", "one", "", "two"] {
                if into {
                    let (count, buf) = theirs.receive_into(vec![0; 8]).await?;
                    assert_eq!(&buf[..count], message.as_bytes());
                } else {
                    let received = theirs.receive().await?.expect("a message");
                    assert_eq!(&received[..], message.as_bytes());
                }
            }
        }
        ours.send("").await?;
        ours.send("last").await?;
        drop(ours);
        turns(3).await;
        assert!(theirs.receive().await?.expect("a message").is_empty());
        assert_eq!(&theirs.receive().await?.expect("a message")[..], b"last");
        assert!(theirs.receive().await?.is_none());
        Ok::<_, io::Error>(())
    });
}

fn a_connection_of_messages_is_made_through_a_listener(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("socket");
        let listener = UnixSeqpacketListener::bind(&path).await?;
        assert_eq!(listener.local_addr()?.as_pathname(), Some(&*path));
        let client = UnixSeqpacket::connect(&path).await?;
        let server = listener.accept().await?;
        assert_eq!(server.peer_cred()?.pid, std::process::id() as i32);
        assert_eq!(client.peer_addr()?.as_pathname(), Some(&*path));
        client.send("hello").await?;
        let message = server.receive().await?.expect("a message");
        server.send(message).await?;
        assert_eq!(&client.receive().await?.expect("a message")[..], b"hello");
        let wrong = UnixStream::connect(&path).await.expect_err("another kind of socket");
        assert_eq!(wrong.raw_os_error(), Some(libc::EPROTOTYPE));
        listener.close().await?;
        let refused = UnixSeqpacket::connect(&path).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        Ok::<_, io::Error>(())
    });
}

fn a_connection_of_messages_is_a_stream_of_objects(cx: Cx) {
    async fn talk<S>(ours: &S) -> io::Result<()>
    where
        S: ObjectStream
            + UnreliableObjectReceiveStream<Item = Bytes>
            + UnreliableObjectSendStream<Item = Bytes>,
    {
        for number in 0..10_u8 {
            ours.send(Bytes::from(vec![number])).await?;
        }
        ours.send_eof().await?;
        assert_eq!(ours.receive().await?.expect("a message"), "thanks");
        ours.aclose().await?;
        ours.aclose().await
    }
    cx.run(async {
        let (ours, theirs) = UnixSeqpacket::pair()?;
        let theirs = Rc::new(theirs);
        let talking = spawn(async move { talk(&ours).await });
        let receiver: &dyn DynObjectReceiveStream<Bytes> = &*theirs;
        let sender: &dyn DynObjectSendStream<Bytes> = &*theirs;
        for number in 0..10_u8 {
            assert_eq!(receiver.receive_dyn().await?.expect("a message"), vec![number]);
        }
        assert!(receiver.receive_dyn().await?.is_none());
        sender.send_dyn(Bytes::from("thanks")).await?;
        talking.await??;
        Ok::<_, io::Error>(())
    });
}

fn a_cancelled_receive_loses_no_message(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixSeqpacket::pair()?;
        for round in 0..60_u32 {
            match round % 3 {
                0 => assert!(poll!(pin!(theirs.receive())).is_pending()),
                1 => assert!(poll!(pin!(theirs.receive_into(vec![0; 100]))).is_pending()),
                _ => assert!(move_on_after(Duration::ZERO, theirs.receive()).await?.is_none()),
            }
            ours.send(round.to_le_bytes().to_vec()).await?;
            turns(round as usize % 4).await;
            assert_eq!(&theirs.receive().await?.expect("a message")[..], round.to_le_bytes());
        }
        Ok::<_, io::Error>(())
    });
}

/// A file with this text, deleted already.
fn file(folder: &Folder, text: &str) -> io::Result<OwnedFd> {
    let path = folder.path("passed");
    fs::write(&path, text)?;
    let file = File::open(&path)?;
    fs::remove_file(&path)?;
    Ok(file.into())
}

#[track_caller]
fn assert_holds(fd: OwnedFd, text: &str) {
    let mut found = String::new();
    File::from(fd).read_to_string(&mut found).expect("a readable file");
    assert_eq!(found, text);
}

fn descriptors_pass_through_a_stream_with_their_bytes(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let (ours, theirs) = UnixStream::pair()?;
        theirs.expect_fds();
        ours.send("plain").await?;
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"plain");
        assert!(poll!(pin!(theirs.receive())).is_pending());
        turns(3).await;
        let files = [file(&folder, "one")?, file(&folder, "two")?];
        let (_, back) = ours.send_fds("with files", files).await?;
        assert_eq!(back.len(), 2);
        drop(back);
        let (count, fds, buf) = theirs.receive_fds(vec![0; 100], 2).await?;
        assert_eq!((&buf[..count], fds.len()), (&b"with files"[..], 2));
        for (fd, text) in fds.into_iter().zip(["one", "two"]) {
            assert_holds(fd, text);
        }
        // And back; a big message takes several sends.
        let sender = spawn(async move {
            theirs.send_fds(vec![7; 1 << 20], [file(&folder, "three")?]).await?;
            theirs.close().await
        });
        let (mut received, mut found) = (0, Vec::new());
        loop {
            let (count, fds, _) = ours.receive_fds(Vec::with_capacity(100_000), 5).await?;
            found.extend(fds);
            received += count;
            if count == 0 {
                break;
            }
        }
        sender.await??;
        assert_eq!((received, found.len()), (1 << 20, 1));
        assert_holds(found.remove(0), "three");
        Ok::<_, io::Error>(())
    });
}

fn descriptors_pass_with_messages(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let (ours, theirs) = UnixSeqpacket::pair()?;
        theirs.expect_fds(3);
        ours.send_fds("a", [file(&folder, "one")?, file(&folder, "two")?]).await?;
        ours.send("b").await?;
        let (bytes, fds) = theirs.receive_fds().await?.expect("a message");
        assert_eq!((&bytes[..], fds.len()), (&b"a"[..], 2));
        fds.into_iter().zip(["one", "two"]).for_each(|(fd, text)| assert_holds(fd, text));
        assert!(theirs.receive_fds().await?.expect("a message").1.is_empty());
        let (ours, theirs) = UnixDatagram::pair()?;
        theirs.expect_fds(1);
        ours.send_fds("", [file(&folder, "three")?]).await?;
        let (bytes, mut fds) = theirs.receive_fds().await?;
        assert_eq!((bytes.len(), fds.len()), (0, 1));
        assert_holds(fds.remove(0), "three");
        Ok::<_, io::Error>(())
    });
}

fn no_descriptor_is_left_when_nobody_takes_it(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let before = open_descriptors();
        {
            let (ours, theirs) = UnixSeqpacket::pair()?;
            theirs.expect_fds(10);
            let _ = poll!(pin!(theirs.receive()));
            for _ in 0..20 {
                ours.send_fds("x", [file(&folder, "one")?, file(&folder, "two")?]).await?;
            }
            turns(5).await;
            // Some in the queue, some in the kernel, one taken without its descriptors.
            assert_eq!(&theirs.receive().await?.expect("a message")[..], b"x");
            let (stream, other) = UnixStream::pair()?;
            other.expect_fds();
            stream.send_fds("x", [file(&folder, "three")?]).await?;
            assert_eq!(&other.receive().await?.expect("bytes")[..], b"x");
            stream.send_fds("y", [file(&folder, "four")?]).await?;
            let _ = poll!(pin!(other.receive_fds(vec![0; 10], 1)));
            turns(3).await;
        }
        turns(5).await;
        until(|| open_descriptors() == before).await;
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_receive_of_descriptors_loses_none(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let (ours, theirs) = UnixStream::pair()?;
        for round in 0..20 {
            assert!(poll!(pin!(theirs.receive_fds(vec![0; 10], 1))).is_pending());
            ours.send_fds("x", [file(&folder, "one")?]).await?;
            turns(round % 4).await;
            let (count, mut fds, _) = theirs.receive_fds(vec![0; 10], 1).await?;
            assert_eq!((count, fds.len()), (1, 1), "round {round}");
            assert_holds(fds.remove(0), "one");
        }
        Ok::<_, io::Error>(())
    });
}

fn more_descriptors_than_expected_are_closed(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let files = || (0..4).map(|_| file(&folder, "one")).collect::<io::Result<Vec<_>>>();
        let (ours, theirs) = UnixSeqpacket::pair()?;
        theirs.expect_fds(1);
        ours.send_fds("x", files()?).await?;
        let mut message = theirs.receive_message().await?.expect("a message");
        assert!(message.is_control_truncated() && message.take_fds().len() == 1);
        let (ours, theirs) = UnixStream::pair()?;
        ours.send_fds("x", files()?).await?;
        assert_eq!(theirs.receive_fds(vec![0; 10], 3).await?.1.len(), 3);
        // Nobody expects any.
        let (ours, theirs) = UnixDatagram::pair()?;
        ours.send_fds("x", files()?).await?;
        let mut message = theirs.receive_message().await?;
        assert!(message.is_control_truncated() && message.take_fds().is_empty());
        Ok::<_, io::Error>(())
    });
}

fn descriptors_without_bytes_are_refused(cx: Cx) {
    if !needs(280, 0) {
        return;
    }
    let folder = Folder::new();
    cx.run(async {
        let (ours, theirs) = UnixStream::pair()?;
        let failed = ours.send_fds("", [file(&folder, "one")?]).await.expect_err("no bytes");
        assert_eq!((failed.error.kind(), failed.buf.1.len()), (io::ErrorKind::InvalidInput, 1));
        assert_eq!(ours.send_fds("x", []).await.expect_err("none").error.kind(), io::ErrorKind::InvalidInput);
        let many = (0..254).map(|_| file(&folder, "one")).collect::<io::Result<Vec<_>>>()?;
        let failed = ours.send_fds("x", many).await.expect_err("too many");
        assert_eq!((failed.error.kind(), failed.buf.1.len()), (io::ErrorKind::InvalidInput, 254));
        theirs.close().await?;
        let failed = ours.send_fds("x", [file(&folder, "one")?]).await.expect_err("nobody is there");
        assert_eq!((failed.error.kind(), failed.buf.1.len()), (io::ErrorKind::BrokenPipe, 1));
        Ok::<_, io::Error>(())
    });
}

fn a_stale_socket_file_is_removed_and_a_live_one_is_not(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("socket");
        let first = UnixListener::bind(&path).await?;
        let error = UnixListener::bind(&path).await.expect_err("somebody listens");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        first.close().await?;
        assert!(path.exists(), "the file stays");
        let strict = UnixListener::builder().remove_stale(false).bind(&path).await;
        assert_eq!(strict.expect_err("it is not removed").kind(), io::ErrorKind::AddrInUse);
        let second = UnixListener::bind(&path).await?;
        let client = UnixStream::connect(&path).await?;
        drop((second.accept().await?, client));
        let plain = folder.path("file");
        fs::write(&plain, "precious")?;
        let error = UnixListener::bind(&plain).await.expect_err("no socket");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&plain)?, "precious");
        Ok::<_, io::Error>(())
    });
}

fn the_file_of_a_listener_has_its_mode_and_goes_with_it(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("socket");
        let make = || UnixListener::builder().mode(0o612).unlink_on_close(true).bind(&path);
        let listener = make().await?;
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o612);
        listener.close().await?;
        assert!(!path.exists());
        drop(make().await?);
        assert!(!path.exists());
        let listener = make().await?;
        fs::remove_file(&path)?;
        fs::write(&path, "of somebody else")?;
        drop(listener);
        assert!(path.exists(), "it is another file");
        Ok::<_, io::Error>(())
    });
}

fn abstract_names_are_no_files(cx: Cx) {
    cx.run(async {
        let name = format!("\0proactor-test-{}-{}", std::process::id(), cx.is_uring());
        let listener = UnixListener::builder().mode(0o600).unlink_on_close(true).bind(&name).await?;
        let client = UnixStream::connect(&name).await?;
        let server = listener.accept().await?;
        assert_eq!(client.peer_cred()?.uid, server.peer_cred()?.uid);
        let error = UnixListener::bind(&name).await.expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        Ok::<_, io::Error>(())
    });
}

/// Receives late, so that what came stays with the stream.
async fn dropped_late(stream: &UnixStream, turned: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let mut receiving = Box::pin(stream.receive_fds(vec![0; 16], 2));
    assert!(poll!(&mut receiving).is_pending());
    turned.await?;
    turns(3).await;
    drop(receiving);
    turns(3).await;
    Ok(())
}

fn descriptors_that_came_late_go_with_their_bytes_or_not_at_all(cx: Cx) {
    let null = || File::open("/dev/null").map(OwnedFd::from);
    cx.run(async {
        let before = open_descriptors();
        let (ours, theirs) = UnixStream::pair()?;
        let with_fds = async || {
            ours.send_fds("with", [null()?, null()?]).await?;
            Ok::<_, io::Error>(())
        };
        let without = async || Ok::<_, io::Error>(ours.send("without").await.map(|_| ())?);

        // Whoever takes the bytes by another call has the descriptors closed, and the next bytes come without them.
        dropped_late(&theirs, with_fds()).await?;
        assert_eq!(open_descriptors(), before + 4);
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"with");
        assert_eq!(open_descriptors(), before + 2);
        dropped_late(&theirs, without()).await?;
        let (count, fds, _) = theirs.receive_fds(vec![0; 16], 2).await?;
        assert_eq!((count, fds.len()), (7, 0));

        // So it is when they go into a buffer.
        dropped_late(&theirs, with_fds()).await?;
        assert_eq!(theirs.receive_into(vec![0; 2]).await?, (2, b"wi".to_vec()));
        assert_eq!(open_descriptors(), before + 2);
        let (count, fds, _) = theirs.receive_fds(vec![0; 16], 2).await?;
        assert_eq!((count, fds.len()), (2, 0));

        // Not more than were asked for.
        dropped_late(&theirs, with_fds()).await?;
        let (count, fds, _) = theirs.receive_fds(vec![0; 16], 1).await?;
        assert_eq!((count, fds.len()), (4, 1));
        assert_eq!(open_descriptors(), before + 3);
        drop(fds);

        // A closed stream keeps none.
        dropped_late(&theirs, with_fds()).await?;
        theirs.aclose().await?;
        assert_eq!(open_descriptors(), before + 1);
        Ok::<_, io::Error>(())
    });
}

fn fewer_descriptors_expected_are_fewer_of_messages_that_came_too(cx: Cx) {
    let null = || File::open("/dev/null").map(OwnedFd::from);
    cx.run(async {
        for max in [0, 1] {
            let before = open_descriptors();
            let (ours, theirs) = UnixDatagram::pair()?;
            theirs.expect_fds(3);
            assert!(poll!(pin!(theirs.receive_fds())).is_pending());
            ours.send_fds("three", [null()?, null()?, null()?]).await?;
            until(|| open_descriptors() == before + 5).await;
            theirs.expect_fds(max);
            assert_eq!(open_descriptors(), before + 2 + max);
            let (bytes, fds) = theirs.receive_fds().await?;
            assert_eq!((&bytes[..], fds.len()), (&b"three"[..], max));
            drop((ours, theirs, fds));
            until(|| open_descriptors() == before).await;
        }
        Ok::<_, io::Error>(())
    });
}

fn who_does_not_read_holds_up_nobody_else(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let server = Rc::new(UnixDatagram::unbound()?);
        let (hostile, friendly) = (folder.path("hostile"), folder.path("friendly"));
        let silent = std::os::unix::net::UnixDatagram::bind(&hostile)?;
        // Its queue is full before the server sends.
        let filler = std::os::unix::net::UnixDatagram::unbound()?;
        filler.set_nonblocking(true)?;
        while filler.send_to(b"x", &hostile).is_ok() {}
        let friend = UnixDatagram::bind(&friendly)?;
        let sending = |text: &'static str| {
            let (server, hostile) = (server.clone(), hostile.clone());
            spawn(async move { server.send_to(text, &hostile).await.map(drop) })
        };
        let (first, second) = (sending("first"), sending("second"));
        for round in 0..50_u8 {
            turns(1).await;
            server.send_to(vec![round], &friendly).await?;
            assert_eq!(&friend.receive().await?[..], [round]);
        }
        assert!(!first.is_finished() && !second.is_finished());
        server.write_to_addr("queued", &friend.local_addr()?)?;
        server.flush().await?;
        assert_eq!(&friend.receive().await?[..], b"queued");
        // It reads after all.
        silent.set_nonblocking(true)?;
        while silent.recv(&mut [0; 8]).is_ok() {}
        first.await??;
        second.await??;
        let mut buf = [0; 8];
        let mut received = || silent.recv(&mut buf).map(|count| buf[..count].to_vec());
        let mut came = [received()?, received()?];
        came.sort();
        assert_eq!(came, [b"first".to_vec(), b"second".to_vec()]);
        Ok::<_, io::Error>(())
    });
}

fn a_full_peer_holds_up_no_message_for_others(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let (peer, other) = (folder.path("peer"), folder.path("other"));
        let silent = std::os::unix::net::UnixDatagram::bind(&peer)?;
        let filler = std::os::unix::net::UnixDatagram::unbound()?;
        filler.set_nonblocking(true)?;
        while filler.send_to(b"x", &peer).is_ok() {}
        let ours = UnixDatagram::unbound()?;
        ours.connect(&peer)?;
        let other = UnixDatagram::bind(&other)?;
        let address = other.local_addr()?;
        let mut first = Box::pin(ours.send("first"));
        assert!(poll!(&mut first).is_pending());
        ours.write("second")?;
        turns(3).await;
        ours.write_to_addr("written", &address)?;
        assert_eq!(&other.receive().await?[..], b"written");
        ours.send_to_addr("sent", &address).await?;
        assert_eq!(&other.receive().await?[..], b"sent");
        assert!(poll!(&mut first).is_pending());
        // Those for the peer stay in order.
        silent.set_nonblocking(true)?;
        while silent.recv(&mut [0; 8]).is_ok() {}
        first.await?;
        ours.flush().await?;
        let mut buf = [0; 8];
        for expected in ["first", "second"] {
            let count = silent.recv(&mut buf)?;
            assert_eq!(&buf[..count], expected.as_bytes());
        }
        Ok::<_, io::Error>(())
    });
}

fn a_send_that_is_done_and_not_fetched_holds_up_nobody(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixSeqpacket::pair()?;
        let mut sent = 0;
        // One that has to wait for room.
        let mut done = loop {
            let mut sending = Box::pin(ours.send(vec![0; 1000]));
            let is_sent = poll!(&mut sending).is_ready();
            turns(3).await;
            if !is_sent && poll!(&mut sending).is_pending() {
                break sending;
            }
            sent += 1;
        };
        for _ in 0..sent {
            theirs.receive().await?;
        }
        // It is sent, and nobody asks it.
        assert_eq!(theirs.receive().await?.map(|message| message.len()), Some(1000));
        let next = timeout(patience(10), ours.send("next"));
        next.await.expect("it waits for nobody")?;
        assert_eq!(&theirs.receive().await?.expect("a message")[..], b"next");
        assert!(poll!(&mut done).is_ready());
        ours.send("last").await?;
        drop(done);
        timeout(patience(10), ours.aclose()).await.expect("no send is under way")?;
        assert_eq!(&theirs.receive().await?.expect("a message")[..], b"last");
        assert!(theirs.receive().await?.is_none());
        Ok::<_, io::Error>(())
    });
}

fn a_name_that_std_does_not_know_costs_no_message(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let address = folder.path("server");
        let server = UnixDatagram::bind(&address)?;
        let client = std::os::unix::net::UnixDatagram::unbound()?;
        let len = folder.path("").as_os_str().len();
        bind_to_all_of_a_name(&client, &folder.path(&"x".repeat(108 - len)))?;
        client.send_to(b"one", &address)?;
        client.send_to(b"two", &address)?;
        client.send_to(b"three", &address)?;
        let (bytes, source) = server.receive_from().await?;
        assert_eq!((&bytes[..], source.is_unnamed()), (&b"one"[..], true));
        let (received, buf) = server.receive_from_into(vec![0; 8]).await?;
        assert_eq!((&buf[..received.len], received.source.is_unnamed()), (&b"two"[..], true));
        let message = server.receive_message().await?;
        assert!(message.source()?.is_unnamed());
        // Nor does it end a server that asks who is connected.
        let listener = UnixListener::bind(folder.path("listener")).await?;
        let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        bind_to_all_of_a_name(&client, &folder.path(&"y".repeat(108 - len)))?;
        client.connect(&socket2::SockAddr::unix(folder.path("listener"))?)?;
        let server = listener.accept().await?;
        assert!(server.peer_addr()?.is_unnamed());
        // Most sockets have no name.
        let (ours, theirs) = UnixStream::pair()?;
        assert!(ours.local_addr()?.is_unnamed() && theirs.peer_addr()?.is_unnamed());
        assert!(UnixDatagram::unbound()?.local_addr()?.is_unnamed());
        Ok::<_, io::Error>(())
    });
}

fn a_deep_queue_of_a_closed_loop_needs_no_deep_stack(cx: Cx) {
    if !needs(0, 200) {
        return;
    }
    let event_loop = cx.builder().build().expect("a loop");
    let kept = std::cell::OnceCell::new();
    let run = event_loop.run_until_complete(async {
        let (ours, theirs) = UnixDatagram::pair()?;
        let ours = Rc::new(ours);
        let sending = || {
            let ours = ours.clone();
            Box::pin(async move { ours.send("waits").await.map(drop) })
        };
        let mut first = loop {
            let mut sending = sending();
            let is_sent = poll!(&mut sending).is_ready();
            turns(2).await;
            if !is_sent && poll!(&mut sending).is_pending() {
                break sending;
            }
        };
        let mut second = sending();
        assert!(poll!(&mut second).is_pending());
        for _ in 0..200_000 {
            ours.write("behind the second")?;
        }
        while poll!(&mut first).is_pending() {
            theirs.receive().await?;
        }
        // The second may send, but does not.
        drop(kept.set((second, theirs)));
        Ok::<_, io::Error>(())
    });
    run.expect("the loop runs").expect("sockets");
    event_loop.close().expect("it closes");
    drop(kept);
}
