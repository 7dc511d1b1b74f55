//! What a descriptor's readiness tells, and what it must not cost: bytes behind other things, and wake-ups in vain.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram as StdDatagram, UnixStream as StdStream};
use std::pin::pin;
use std::time::Duration;

use futures_util::poll;
use nix::sys::socket::{TimestampingFlag, setsockopt, sockopt};
use proactor::net::{PipeReader, UnixDatagram, UnixStream, pipe};
use proactor::{metrics, sleep, spawn};

use crate::harness::{Cx, both_drivers, turns};

both_drivers!(
    bytes_behind_descriptors_that_nobody_wants_are_received_too,
    bytes_that_come_one_by_one_are_all_received_from_a_pipe,
    what_a_peer_takes_wakes_nobody,
    what_nobody_asks_for_does_not_wake_the_loop_again_and_again,
    an_error_queue_that_nobody_reads_does_not_wake_the_loop_again_and_again,
);

/// Three messages of which the second brings a descriptor, where a receive stops.
async fn send_around_a_descriptor(stream: &UnixStream) -> io::Result<()> {
    stream.send("a").await?;
    stream.send_fds("b", [OwnedFd::from(File::open("/dev/null")?)]).await?;
    stream.send("c").await?;
    Ok(())
}

/// Receives until all three bytes are there, into buffers that would hold all of them.
async fn assert_all_come(stream: &UnixStream, pooled: bool) -> io::Result<()> {
    let mut text = Vec::new();
    while text.len() < 3 {
        if pooled {
            text.extend_from_slice(&stream.receive().await?.expect("bytes"));
        } else {
            let (count, buf) = stream.receive_into(vec![0; 100]).await?;
            text.extend_from_slice(&buf[..count]);
        }
    }
    assert_eq!(text, b"abc");
    Ok(())
}

fn bytes_behind_descriptors_that_nobody_wants_are_received_too(cx: Cx) {
    cx.run(async {
        for pooled in [true, false] {
            // Somebody waits.
            let (ours, theirs) = UnixStream::pair()?;
            {
                let mut waiting = pin!(assert_all_come(&theirs, pooled));
                assert!(poll!(&mut waiting).is_pending());
                turns(3).await;
                send_around_a_descriptor(&ours).await?;
                waiting.await?;
            }
            // The driver knows the socket, and nobody waits when they come.
            ours.send("x").await?;
            assert_eq!(theirs.receive_into(vec![0; 1]).await?.0, 1);
            for _ in 0..2 {
                send_around_a_descriptor(&ours).await?;
                turns(5).await;
                assert_all_come(&theirs, pooled).await?;
            }
            // A send had to wait meanwhile.
            let (ours, theirs) = UnixStream::pair()?;
            let mut waiting = pin!(assert_all_come(&theirs, pooled));
            assert!(poll!(&mut waiting).is_pending());
            turns(3).await;
            let mut big = pin!(theirs.send(vec![7; 1 << 20]));
            assert!(poll!(&mut big).is_pending());
            turns(3).await;
            send_around_a_descriptor(&ours).await?;
            waiting.await?;
            let read = async {
                let mut left = 1 << 20;
                while left > 0 {
                    left -= ours.receive().await?.expect("bytes").len();
                }
                Ok::<_, io::Error>(())
            };
            let (sent, read) = futures_util::future::join(big, read).await;
            sent?;
            read?;
        }
        Ok::<_, io::Error>(())
    });
}

fn bytes_that_come_one_by_one_are_all_received_from_a_pipe(cx: Cx) {
    cx.run(async {
        let (reader, writer) = pipe().await?;
        for round in 0_u8..20 {
            // Asked for before they come, and after.
            if round % 2 == 0 {
                let mut received = pin!(reader.receive_into(vec![0; 100]));
                assert!(poll!(&mut received).is_pending());
                turns(usize::from(round) % 4).await;
                writer.send(vec![round]).await?;
                let (count, buf) = received.await?;
                assert_eq!(buf[..count], [round]);
            } else {
                writer.send(vec![round]).await?;
                turns(usize::from(round) % 4).await;
                assert_eq!(reader.receive().await?.expect("bytes")[..], [round]);
            }
        }
        drop(writer);
        assert!(reader.receive().await?.is_none());
        Ok::<_, io::Error>(())
    });
}

/// How often the loop asks the kernel while it does nothing but sleep, for each time.
async fn enters_of_sleeps() -> io::Result<f64> {
    const TIMES: u32 = 20;
    let before = metrics().enters;
    for _ in 0..TIMES {
        sleep(Duration::from_millis(1)).await?;
    }
    Ok((metrics().enters - before) as f64 / f64::from(TIMES))
}

fn what_a_peer_takes_wakes_nobody(cx: Cx) {
    // Where it cannot be left out, the completion that says that the deadline was moved is a wake-up too.
    let moves = if cx.is_uring() && !cx.has("CQE_SKIP") { 1.0 } else { 0.0 };
    cx.run(async {
        const TIMES: u32 = 20;
        let idle = enters_of_sleeps().await?;
        let (ours, mut theirs) = StdStream::pair()?;
        let ours = UnixStream::from_std(ours)?;
        let (datagrams, peer) = StdDatagram::pair()?;
        let datagrams = UnixDatagram::from_std(datagrams)?;
        let (mut receive, mut message) = (pin!(ours.receive()), pin!(datagrams.receive()));
        assert!(poll!(&mut receive).is_pending() && poll!(&mut message).is_pending());
        turns(3).await;
        let mut enters = 0;
        for _ in 0..TIMES {
            ours.send("x").await?;
            datagrams.send("x").await?;
            turns(3).await;
            theirs.read_exact(&mut [0])?;
            peer.recv(&mut [0])?;
            let before = metrics().enters;
            sleep(Duration::from_millis(1)).await?;
            enters += metrics().enters - before;
        }
        let after = enters as f64 / f64::from(TIMES);
        println!("{idle} calls for a sleep, {after} after a peer took something");
        assert!(after <= idle + moves + 0.5, "{after} instead of {idle}");
        Ok::<_, io::Error>(())
    });
}

fn what_nobody_asks_for_does_not_wake_the_loop_again_and_again(cx: Cx) {
    cx.run(async {
        let idle = enters_of_sleeps().await?;
        let (ours, mut theirs) = StdStream::pair()?;
        let ours = UnixStream::from_std(ours)?;
        let mut received = pin!(ours.receive_into(vec![0; 10]));
        assert!(poll!(&mut received).is_pending());
        turns(2).await;
        theirs.write_all(b"x")?;
        assert_eq!(received.await?.0, 1);
        // From here on nobody waits: first for bytes, then for the end.
        theirs.write_all(b"more")?;
        let with_bytes = enters_of_sleeps().await?;
        drop(theirs);
        let with_end = enters_of_sleeps().await?;
        println!("{idle} calls for a sleep, {with_bytes} beside bytes, {with_end} beside an end");
        assert!(with_bytes.max(with_end) <= idle + 0.5, "{with_bytes}, {with_end} instead of {idle}");
        let (count, buf) = ours.receive_into(vec![0; 10]).await?;
        assert_eq!(&buf[..count], b"more");
        assert_eq!(ours.receive_into(vec![0; 10]).await?.0, 0);
        Ok::<_, io::Error>(())
    });
}

/// It is an event that receiving does not take away. Somebody waits, as a server's standard input may be any socket.
fn an_error_queue_that_nobody_reads_does_not_wake_the_loop_again_and_again(cx: Cx) {
    cx.run(async {
        let idle = enters_of_sleeps().await?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let mut ours = std::net::TcpStream::connect(listener.local_addr()?)?;
        let (mut theirs, _) = listener.accept()?;
        let flags =
            TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
        setsockopt(&ours, sockopt::Timestamping, &flags)?;
        let reader = PipeReader::from_fd(OwnedFd::from(ours.try_clone()?))?;
        let receiving = spawn(async move { reader.receive().await });
        turns(3).await;
        ours.write_all(b"x")?;
        let with_error = enters_of_sleeps().await?;
        println!("{idle} calls for a sleep, {with_error} beside an error queue");
        assert!(with_error <= idle + 0.5, "{with_error} instead of {idle}");
        theirs.write_all(b"y")?;
        assert_eq!(&receiving.await??.expect("bytes")[..], b"y");
        Ok::<_, io::Error>(())
    });
}
