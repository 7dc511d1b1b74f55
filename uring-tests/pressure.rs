//! Back-pressure: a program that withholds chunks, or peers that do not read, hold up nobody else.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proactor::buf::Chunk;
use proactor::net::{TcpListener, TcpStream};
use proactor::{Builder, spawn, timeout};

use crate::harness::{Cx, both_drivers, many, tcp_pair, until};

both_drivers!(
    chunks_that_a_program_withholds_stop_no_other_connection,
    bytes_piled_up_towards_peers_that_do_not_read_stop_no_other_connection,
    a_receive_stops_at_the_mark_and_goes_on_when_the_bytes_were_taken,
    small_buffers_carry_big_messages,
    big_transfers_both_ways_at_once_lose_nothing,
    a_chunk_outlives_its_stream_and_its_loop,
    a_big_chunk_becomes_bytes_without_a_copy_and_the_pool_goes_on,
    writes_go_out_in_order_with_sends_between_them,
    poll_flush_is_ready_at_the_given_number_of_bytes,
);

/// A loop with 16 buffers of 4 KiB in all.
fn small_pool(cx: Cx) -> Builder {
    cx.builder().buffer_size(4096).buffer_limit(16 * 4096)
}

/// Sends one message there and back, over a new connection.
async fn echo_once(listener: &TcpListener, text: &'static str) -> io::Result<()> {
    let client = TcpStream::connect(listener.local_addr()?).await?;
    let server = listener.accept().await?;
    client.send(text).await?;
    let chunk = server.receive().await?.expect("bytes");
    server.send(chunk).await?;
    assert_eq!(&client.receive().await?.expect("bytes")[..], text.as_bytes());
    Ok(())
}

fn chunks_that_a_program_withholds_stop_no_other_connection(cx: Cx) {
    cx.run_with(small_pool(cx), async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        // Far more chunks than the pool has buffers, each held on to.
        let (client, server) = tcp_pair().await?;
        let mut held: Vec<Chunk> = Vec::new();
        for _ in 0..64 {
            client.send(vec![7_u8; 4096]).await?;
            let mut left = 4096;
            while left > 0 {
                let chunk = server.receive().await?.expect("bytes");
                left -= chunk.len();
                held.push(chunk);
            }
        }
        for _ in 0..100 {
            timeout(Duration::from_secs(20), echo_once(&listener, "still here")).await??;
        }
        assert!(held.iter().all(|chunk| chunk.iter().all(|byte| *byte == 7)), "what is held stays as it was");
        assert_eq!(held.iter().map(|chunk| chunk.len()).sum::<usize>(), 64 * 4096);
        drop(held);
        // And the pool is as good as before.
        echo_once(&listener, "after").await
    });
}

fn bytes_piled_up_towards_peers_that_do_not_read_stop_no_other_connection(cx: Cx) {
    cx.run_with(small_pool(cx), async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut deaf = Vec::new();
        for _ in 0..8 {
            let (client, server) = tcp_pair().await?;
            let done = Rc::new(Cell::new(0_usize));
            let count = done.clone();
            // An echo whose client sends for ever and never reads.
            let echo = spawn(async move {
                while let Ok(Some(chunk)) = server.receive().await {
                    count.set(count.get() + chunk.len());
                    if server.send(chunk).await.is_err() {
                        break;
                    }
                }
            });
            let client = Rc::new(client);
            let sender = client.clone();
            let flood = spawn(async move { while sender.send(vec![1_u8; 65536]).await.is_ok() {} });
            deaf.push((client, echo, flood, done));
        }
        // Until nothing moves any more: each echo is stuck in a send.
        let mut before = usize::MAX;
        loop {
            let now = deaf.iter().map(|(.., done)| done.get()).sum();
            if now == before {
                break;
            }
            before = now;
            timeout(Duration::from_millis(50), std::future::pending::<()>()).await.ok();
        }
        assert!(before > 0);
        for _ in 0..100 {
            timeout(Duration::from_secs(20), echo_once(&listener, "still here")).await??;
        }
        // Reading on the deaf side sets them free; closing ends them.
        for (client, echo, flood, _) in deaf {
            client.with_socket(|socket| socket.shutdown(std::net::Shutdown::Both))?;
            flood.await?;
            drop(client);
            echo.await?;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_receive_stops_at_the_mark_and_goes_on_when_the_bytes_were_taken(cx: Cx) {
    cx.run(async {
        let (client, server) = tcp_pair().await?;
        const TOTAL: usize = 16 << 20;
        let flood = spawn(async move {
            client.send(vec![3_u8; TOTAL]).await?;
            client.close().await
        });
        let first = server.receive().await?.expect("bytes");
        // Nobody receives: some is taken from the kernel, but by no means all.
        let idle = Cell::new((0, 0));
        until(|| {
            let now = proactor::metrics().buffers_in_use;
            let (last, calm) = idle.get();
            idle.set(if now == last { (now, calm + 1) } else { (now, 0) });
            calm > 50
        })
        .await;
        let held = proactor::metrics().buffers_in_use;
        assert!(held * (32 << 10) < TOTAL / 2, "{held} buffers are held for a connection that nobody reads");
        let mut total = first.len();
        while let Some(chunk) = server.receive().await? {
            assert!(chunk.iter().all(|byte| *byte == 3));
            total += chunk.len();
        }
        assert_eq!(total, TOTAL);
        flood.await?
    });
}

fn small_buffers_carry_big_messages(cx: Cx) {
    cx.run_with(cx.builder().buffer_size(256).buffer_limit(64 * 256), async {
        let (client, server) = tcp_pair().await?;
        let message: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
        let sent = message.clone();
        let sender = spawn(async move {
            client.send(sent).await?;
            client.close().await
        });
        let mut received = Vec::new();
        while let Some(chunk) = server.receive().await? {
            assert!(!chunk.is_empty());
            received.extend_from_slice(&chunk);
        }
        assert!(received == message);
        sender.await?
    });
}

fn big_transfers_both_ways_at_once_lose_nothing(cx: Cx) {
    let total = many(16 << 20);
    /// Sends a pattern that depends on the position, and checks what comes back for the same.
    async fn talk(stream: TcpStream, total: usize) -> io::Result<()> {
        let (receiver, sender) = stream.split();
        let sending = spawn(async move {
            let mut at = 0;
            while at < total {
                let piece: Vec<u8> = (at..at + 50_000).map(|n| (n % 253) as u8).collect();
                at += piece.len();
                sender.send(piece).await?;
            }
            sender.shutdown_write().await
        });
        let mut at = 0;
        while let Some(chunk) = receiver.receive().await? {
            assert!(chunk.iter().enumerate().all(|(i, byte)| *byte == ((at + i) % 253) as u8), "at {at}");
            at += chunk.len();
        }
        assert!(at >= total);
        sending.await?
    }
    cx.run(async {
        let (one, other) = tcp_pair().await?;
        let other = spawn(talk(other, total));
        talk(one, total).await?;
        other.await?
    });
}

fn a_chunk_outlives_its_stream_and_its_loop(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let chunk = event_loop
        .run_until_complete(async {
            let (client, server) = tcp_pair().await?;
            client.send("kept").await?;
            server.receive().await
        })
        .expect("the loop runs")
        .expect("no error")
        .expect("bytes");
    event_loop.close().expect("the loop closes");
    drop(event_loop);
    assert_eq!(&chunk[..], b"kept");
    assert_eq!(chunk.into_vec(), b"kept");
}

fn a_big_chunk_becomes_bytes_without_a_copy_and_the_pool_goes_on(cx: Cx) {
    cx.run(async {
        let (client, server) = tcp_pair().await?;
        let mut kept = Vec::new();
        for round in 0..200_u8 {
            client.send(vec![round; 16 << 10]).await?;
            let mut left = 16 << 10;
            while left > 0 {
                let mut chunk = server.receive().await?.expect("bytes");
                left -= chunk.len();
                let head = chunk.split_to(chunk.len() / 2);
                let (head_at, at, len) = (head.as_ptr(), chunk.as_ptr(), chunk.len());
                drop(head);
                let bytes = Bytes::from(chunk);
                assert_eq!(bytes.len(), len);
                assert!(len <= 4096 || bytes.as_ptr() == at, "a big chunk is not copied");
                assert_ne!(head_at, at.wrapping_add(1));
                kept.push((round, bytes));
            }
        }
        // They may leave the thread, and nothing writes to them any more.
        std::thread::spawn(move || kept.iter().all(|(round, bytes)| bytes.iter().all(|byte| byte == round)))
            .join()
            .map(|all_well| assert!(all_well))
            .map_err(|_| io::Error::other("the thread panicked"))?;
        client.send("on").await?;
        assert_eq!(&server.receive().await?.expect("bytes")[..], b"on");
        Ok::<_, io::Error>(())
    });
}

fn writes_go_out_in_order_with_sends_between_them(cx: Cx) {
    cx.run(async {
        let (client, server) = tcp_pair().await?;
        let mut expected = Vec::new();
        for n in 0..2000_u32 {
            let line = format!("{n}\n");
            expected.extend_from_slice(line.as_bytes());
            match n % 3 {
                0 => drop(client.send(line).await?),
                1 => drop(client.send_vectored(vec![line.into_bytes(), Vec::new()]).await?),
                _ => drop(client.write(line)?),
            }
        }
        let closing = spawn(client.close());
        let mut received = Vec::new();
        while let Some(chunk) = server.receive().await? {
            received.extend_from_slice(&chunk);
        }
        assert!(received == expected);
        closing.await?
    });
}

fn poll_flush_is_ready_at_the_given_number_of_bytes(cx: Cx) {
    cx.run(async {
        let (owned, server) = tcp_pair().await?;
        let client = &owned;
        let mut queued = 0;
        // More than the sockets hold, so that some stays queued while nobody reads.
        while queued < 8 << 20 {
            queued = client.write(vec![0_u8; 64 << 10])?;
        }
        let ready = |below| {
            std::future::poll_fn(move |cx| std::task::Poll::Ready(client.poll_flush(cx, below).is_ready()))
        };
        assert!(ready(usize::MAX).await);
        assert!(!ready(1 << 20).await, "{queued} bytes are queued and nobody reads");
        let reader = spawn(async move {
            let mut total = 0;
            while let Some(chunk) = server.receive().await? {
                total += chunk.len();
            }
            Ok::<_, io::Error>(total)
        });
        std::future::poll_fn(|cx| client.poll_flush(cx, 1 << 20)).await?;
        client.flush().await?;
        owned.close().await?;
        assert!(reader.await?? >= 8 << 20);
        Ok::<_, io::Error>(())
    });
}
