//! Streams and listeners, as their users see them.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{join, poll};
use proactor::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use proactor::{metrics, spawn, timeout};

use crate::harness::{Cx, Folder, both_drivers, many, open_descriptors, patience, tcp_pair, turns, until};

both_drivers!(
    a_listener_and_a_stream_echo,
    the_end_of_one_direction_leaves_the_other_open,
    a_reset_by_the_peer_is_an_error_and_the_buffer_comes_back,
    many_bytes_cross_both_ways_at_once_unharmed,
    halves_work_in_two_tasks_and_close_together,
    a_second_receiver_is_told_that_it_is_busy,
    the_write_queue_coalesces_and_keeps_its_order,
    a_send_that_is_done_and_not_fetched_holds_up_nobody,
    a_flush_below_a_mark_is_over_when_the_mark_is_met,
    into_std_gives_the_bytes_that_came_and_from_std_goes_on,
    closing_after_the_half_close_is_no_error,
    a_unix_connect_waits_while_the_queue_is_full,
    listeners_share_a_port_only_if_asked,
    chunks_split_and_convert_without_losing_a_byte,
    a_chunk_outlives_its_stream_and_its_loop,
    chunks_withheld_by_the_program_starve_no_connection,
);

fn a_listener_and_a_stream_echo(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = TcpStream::connect(listener.local_addr()?).await?;
        let server = listener.accept().await?;
        assert_eq!((client.local_addr()?, client.peer_addr()?), (server.peer_addr()?, server.local_addr()?));
        client.send("hello").await?;
        let chunk = server.receive().await?.expect("bytes");
        assert_eq!(&chunk[..], b"hello");
        server.send(chunk).await?;
        assert_eq!(&client.receive().await?.expect("bytes")[..], b"hello");
        client.shutdown_write().await?;
        assert!(server.receive().await?.is_none());
        server.close().await?;
        assert!(client.receive().await?.is_none());
        Ok::<_, io::Error>(())
    });
}

fn the_end_of_one_direction_leaves_the_other_open(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let _ = ours.write("last")?;
        ours.shutdown_write().await?;
        ours.shutdown_write().await?; // twice does nothing
        assert_eq!(ours.write("more").expect_err("it is shut").raw_os_error(), Some(libc::EPIPE));
        assert_eq!(&theirs.receive().await?.expect("what was queued before")[..], b"last");
        for _ in 0..3 {
            assert!(theirs.receive().await?.is_none());
            assert_eq!(theirs.receive_into(vec![0; 8]).await?.0, 0);
        }
        theirs.send("answer").await?;
        assert_eq!(&ours.receive().await?.expect("bytes")[..], b"answer");
        Ok::<_, io::Error>(())
    });
}

fn a_reset_by_the_peer_is_an_error_and_the_buffer_comes_back(cx: Cx) {
    cx.run(async {
        for receives in [true, false] {
            let (ours, theirs) = tcp_pair().await?;
            let reset = async {
                turns(3).await;
                theirs.set_linger(Some(Duration::ZERO))?;
                theirs.close().await
            };
            if receives {
                let (received, closed) = join!(ours.receive(), reset);
                closed?;
                assert_eq!(received.expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
            } else {
                let (sent, closed) = join!(ours.send(vec![0; 64 << 20]), reset);
                closed?;
                let failed = sent.expect_err("a reset");
                assert_eq!(failed.error.kind(), io::ErrorKind::ConnectionReset);
                assert_eq!(failed.buf.len(), 64 << 20);
                assert!(failed.done < 64 << 20);
            }
            assert!(ours.send("more").await.is_err(), "it stays broken");
        }
        Ok::<_, io::Error>(())
    });
}

/// The bytes from `at` on of a stream whose every byte tells its place.
fn pattern(at: usize, len: usize) -> Vec<u8> {
    (at..at + len).map(|at| (at % 251) as u8).collect()
}

fn many_bytes_cross_both_ways_at_once_unharmed(cx: Cx) {
    const PART: usize = 251 << 10;
    let parts = many(66);
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let part = Bytes::from(pattern(0, PART));
        let send = async |stream: &TcpStream| {
            for _ in 0..parts {
                stream.send(part.clone()).await?;
            }
            stream.shutdown_write().await
        };
        let receive = async |stream: &TcpStream| {
            let mut received = 0;
            while let Some(chunk) = stream.receive().await? {
                let from = received % 251;
                assert!(chunk[..] == part[from..from + chunk.len()], "wrong bytes after {received}");
                received += chunk.len();
            }
            Ok::<_, io::Error>(received)
        };
        let (a, b, c, d) = join!(send(&ours), receive(&ours), send(&theirs), receive(&theirs));
        a?;
        c?;
        assert_eq!((b?, d?), (parts * PART, parts * PART));
        Ok::<_, io::Error>(())
    });
}

fn halves_work_in_two_tasks_and_close_together(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let (receiving, sending) = ours.split();
        let echo = spawn(async move {
            let chunk = receiving.receive().await?.expect("bytes");
            Ok::<_, io::Error>(chunk.len())
        });
        sending.send("ping").await?;
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"ping");
        theirs.send("pong!").await?;
        assert_eq!(echo.await??, 5);
        // One half is gone; the stream is not closed before the other goes.
        sending.send("still").await?;
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"still");
        drop(sending);
        assert!(theirs.receive().await?.is_none());
        Ok::<_, io::Error>(())
    });
}

fn a_second_receiver_is_told_that_it_is_busy(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let mut first = pin!(ours.receive());
        assert!(poll!(&mut first).is_pending());
        assert_eq!(ours.receive().await.expect_err("busy").kind(), io::ErrorKind::ResourceBusy);
        let failed = ours.receive_into(vec![7; 9]).await.expect_err("busy");
        assert_eq!((failed.error.kind(), failed.buf), (io::ErrorKind::ResourceBusy, vec![7; 9]));
        theirs.send("bytes").await?;
        assert_eq!(&first.await?.expect("the first is not disturbed")[..], b"bytes");
        Ok::<_, io::Error>(())
    });
}

fn the_write_queue_coalesces_and_keeps_its_order(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixStream::pair()?;
        let before = metrics();
        let mut expected = Vec::new();
        for number in 0..500_u32 {
            let bytes = number.to_le_bytes().to_vec();
            expected.extend_from_slice(&bytes);
            let _ = ours.write(bytes)?;
        }
        ours.flush().await?;
        assert_eq!(ours.write(Bytes::new())?, 0, "nothing is queued any more");
        let sends = metrics().submitted_of("sendmsg") - before.submitted_of("sendmsg");
        assert!(sends <= 12, "{sends} sends for what fits into eight vectors");
        let mut received = Vec::new();
        while received.len() < expected.len() {
            received.extend_from_slice(&theirs.receive().await?.expect("bytes"));
        }
        assert_eq!(received, expected);
        Ok::<_, io::Error>(())
    });
}

fn a_send_that_is_done_and_not_fetched_holds_up_nobody(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixStream::pair()?;
        for fetched in [true, false] {
            // More than there is room for.
            let mut done = Box::pin(ours.send(pattern(0, 4 << 20)));
            assert!(poll!(&mut done).is_pending());
            ours.write("written")?;
            let mut left = 4 << 20;
            while left > 0 {
                left -= theirs.receive_into(vec![0; left.min(1 << 20)]).await?.0;
            }
            // It is sent, and nobody asks it.
            let next = timeout(patience(10), ours.send("next"));
            next.await.expect("it waits for nobody")?;
            let mut text = Vec::new();
            while text.len() < 11 {
                text.extend_from_slice(&theirs.receive().await?.expect("bytes"));
            }
            assert_eq!(text, b"writtennext");
            if fetched {
                assert_eq!(done.await?.len(), 4 << 20);
            } else {
                drop(done);
            }
            ours.send("last").await?;
            assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"last");
        }
        timeout(patience(10), ours.close()).await.expect("no send is under way")?;
        assert!(theirs.receive().await?.is_none());
        Ok::<_, io::Error>(())
    });
}

fn a_flush_below_a_mark_is_over_when_the_mark_is_met(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixStream::pair()?;
        ours.with_socket(|socket| socket.set_send_buffer_size(4096))?;
        for _ in 0..4096 {
            let _ = ours.write(vec![1; 1024])?;
        }
        assert!(poll!(pin!(poll_fn(|cx| ours.poll_flush(cx, 1 << 20)))).is_pending());
        let mut received = 0;
        while poll!(pin!(poll_fn(|cx| ours.poll_flush(cx, 1 << 20)))).is_pending() {
            received += theirs.receive().await?.expect("bytes").len();
        }
        assert!(received >= 2 << 20, "{received} bytes are out, and more than the mark is queued");
        assert!(poll!(pin!(ours.flush())).is_pending(), "some is left");
        while received < 4 << 20 {
            received += theirs.receive().await?.expect("bytes").len();
        }
        ours.flush().await
    });
}

fn into_std_gives_the_bytes_that_came_and_from_std_goes_on(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        assert!(poll!(pin!(ours.receive())).is_pending());
        theirs.send("early").await?;
        turns(5).await; // the armed receive has it by now, or std will
        let _ = ours.write("queued")?;
        let (mut std, chunks) = ours.into_std().await?;
        assert_eq!(&theirs.receive().await?.expect("what was queued")[..], b"queued");
        theirs.send("late").await?;
        let mut bytes: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.to_vec()).collect();
        drop(chunks);
        let mut rest = vec![0; 9 - bytes.len()];
        io::Read::read_exact(&mut std, &mut rest)?; // blocking mode; all of it is there
        bytes.extend(rest);
        assert_eq!(bytes, b"earlylate");
        theirs.send("again").await?;
        let ours = TcpStream::from_std(std)?;
        assert_eq!(&ours.receive().await?.expect("what waited")[..], b"again");
        Ok::<_, io::Error>(())
    });
}

fn closing_after_the_half_close_is_no_error(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        ours.shutdown_write().await?;
        assert!(theirs.receive().await?.is_none());
        ours.close().await
    });
}

fn a_unix_connect_waits_while_the_queue_is_full(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("socket");
        let listener = UnixListener::bind(&path).await?;
        listener.with_socket(|socket| socket.listen(1))?; // a queue of two
        let mut connecting = Vec::new();
        for _ in 0..6 {
            connecting.push(spawn(UnixStream::connect(path.clone())));
        }
        turns(50).await;
        assert!(connecting.iter().any(|task| !task.is_finished()), "the queue holds two");
        let mut served = Vec::new();
        for _ in 0..6 {
            served.push(listener.accept().await?);
        }
        for task in connecting {
            let peer = task.await??.peer_cred()?;
            assert_eq!(peer.pid, std::process::id() as i32);
        }
        Ok::<_, io::Error>(())
    });
}

fn listeners_share_a_port_only_if_asked(cx: Cx) {
    cx.run(async {
        let first = TcpListener::builder().reuse_port(true).bind("127.0.0.1:0").await?;
        let address = first.local_addr()?;
        let second = TcpListener::builder().reuse_port(true).bind(address).await?;
        assert_eq!(second.local_addr()?, address);
        let refused = TcpListener::bind(address).await.expect_err("it does not share");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        first.close().await?;
        second.close().await?;
        TcpListener::bind(address).await?.close().await
    });
}

fn chunks_split_and_convert_without_losing_a_byte(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixStream::pair()?;
        for len in [100, 20_000] {
            theirs.send(pattern(0, len)).await?;
            let mut chunk = ours.receive().await?.expect("bytes");
            assert_eq!(chunk.len(), len, "a UNIX stream keeps a message of this size together");
            let head = chunk.split_to(10);
            chunk.advance(5);
            assert_eq!((&head[..], &chunk[..]), (&pattern(0, 10)[..], &pattern(15, len - 15)[..]));
            let shared = Bytes::from(head);
            let rest = Bytes::from(chunk);
            assert!(shared == pattern(0, 10) && rest == pattern(15, len - 15));
            assert_eq!(metrics().buffers_in_use, 0, "no conversion keeps a buffer of the pool");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_chunk_outlives_its_stream_and_its_loop(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let received = event_loop.run_until_complete(async {
        let (ours, theirs) = tcp_pair().await?;
        theirs.send(pattern(0, 10_000)).await?;
        let mut chunks = Vec::new();
        while chunks.iter().map(|chunk: &proactor::buf::Chunk| chunk.len()).sum::<usize>() < 10_000 {
            chunks.push(ours.receive().await?.expect("bytes"));
        }
        Ok::<_, io::Error>(chunks)
    });
    drop(event_loop);
    let chunks = received.expect("the loop runs").expect("bytes");
    let others: Vec<_> = (0..64).map(|_| vec![0xFF_u8; 32 << 10]).collect();
    assert!(chunks.iter().flat_map(|chunk| chunk.to_vec()).eq(pattern(0, 10_000)));
    drop((others, chunks));
}

fn chunks_withheld_by_the_program_starve_no_connection(cx: Cx) {
    let builder = cx.builder().buffer_size(1024).buffer_limit(16 << 10);
    cx.run_with(builder, async {
        let descriptors = open_descriptors();
        let (greedy, feeding) = UnixStream::pair()?;
        let others = (0..20).map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>()?;
        assert!(open_descriptors() > descriptors);
        let (mut withheld, mut at) = (Vec::new(), 0);
        // Far beyond the sixteen buffers there are: the one who withholds them goes on as well.
        for _ in 0..200 {
            feeding.send(pattern(at, 500)).await?;
            let chunk = greedy.receive().await?.expect("bytes");
            assert!(chunk[..] == pattern(at, chunk.len())[..]);
            at += chunk.len();
            withheld.push(chunk);
            if at % 5 == 0 {
                for (ours, theirs) in &others {
                    theirs.send("ping").await?;
                    assert_eq!(&ours.receive().await?.expect("bytes")[..], b"ping");
                }
            }
        }
        let all: Vec<u8> = withheld.iter().flat_map(|chunk| chunk.to_vec()).collect();
        assert!(all == pattern(0, all.len()), "what is withheld is left alone");
        assert!(metrics().buffers_total <= 16, "{} buffers", metrics().buffers_total);
        drop(withheld);
        drop((greedy, feeding, others));
        until(|| metrics().buffers_in_use == 0).await;
        Ok::<_, io::Error>(())
    });
}
