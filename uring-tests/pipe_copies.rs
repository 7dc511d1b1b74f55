//! From and to pipes, inside the kernel: every byte once and in order, and an exact count however it ends.

use std::fs;
use std::io;
use std::rc::Rc;

use futures_util::{FutureExt, join};
use proactor::fs::File;
use proactor::net::{CopyTo, PipeReader, PipeWriter, TcpStream, UnixStream, pipe};
use proactor::{metrics, spawn};

use crate::bulk::{KIB, MIB, cancelled_after, pattern};
use crate::harness::{Cx, Folder, Random, both_drivers, tcp_pair, turns, until};

both_drivers!(
    bytes_go_between_pipes_and_sockets,
    a_count_is_kept_to_the_byte,
    a_cancel_at_any_moment_loses_no_byte,
    a_dropped_copy_loses_no_byte,
    a_reader_that_is_gone_ends_a_copy_with_a_count,
    what_is_no_pipe_is_copied_all_the_same,
    halves_of_streams_copy_too,
    files_of_all_sizes_go_into_a_pipe,
    a_reader_that_waits_holds_nothing_but_the_pipe,
    a_cancelled_file_leaves_an_exact_count_and_a_working_pipe,
);

/// What bytes come out of.
enum Source {
    Socket(TcpStream),
    Pipe(PipeReader),
}

/// What bytes go into.
enum Sink {
    Socket(TcpStream),
    Pipe(PipeWriter),
}

impl Source {
    async fn receive_all(&self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(chunk) = match self {
            Self::Socket(stream) => stream.receive().await?,
            Self::Pipe(reader) => reader.receive().await?,
        } {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    async fn receive_exactly(&self, len: usize) -> io::Result<Vec<u8>> {
        let mut all = Vec::with_capacity(len);
        while all.len() < len {
            let buf = Vec::with_capacity(len - all.len());
            let (count, bytes) = match self {
                Self::Socket(stream) => stream.receive_into(buf).await?,
                Self::Pipe(reader) => reader.receive_into(buf).await?,
            };
            assert!(count > 0, "it ended after {} of {len} bytes", all.len());
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    fn copy_to<'a>(&'a self, sink: &'a Sink) -> CopyTo<'a> {
        match (self, sink) {
            (Self::Socket(from), Sink::Socket(to)) => from.copy_to(to),
            (Self::Socket(from), Sink::Pipe(to)) => from.copy_to(to),
            (Self::Pipe(from), Sink::Socket(to)) => from.copy_to(to),
            (Self::Pipe(from), Sink::Pipe(to)) => from.copy_to(to),
        }
    }
}

impl Sink {
    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Socket(stream) => stream.send(bytes.to_vec()).await.map(drop)?,
            Self::Pipe(writer) => writer.send(bytes.to_vec()).await.map(drop)?,
        }
        Ok(())
    }

    async fn close(self) -> io::Result<()> {
        match self {
            Self::Socket(stream) => stream.close().await,
            Self::Pipe(writer) => writer.close().await,
        }
    }
}

/// Both ends of something.
async fn link(is_pipe: bool) -> io::Result<(Sink, Source)> {
    Ok(if is_pipe {
        let (reader, writer) = pipe().await?;
        (Sink::Pipe(writer), Source::Pipe(reader))
    } else {
        let (theirs, ours) = tcp_pair().await?;
        (Sink::Socket(ours), Source::Socket(theirs))
    })
}

/// Which of the two ends of a copy are pipes.
const KINDS: [(bool, bool); 3] = [(false, true), (true, false), (true, true)];

fn bytes_go_between_pipes_and_sockets(cx: Cx) {
    cx.run(async {
        for (from, to) in KINDS {
            let before = metrics().submitted_of("splice");
            for len in [0, 1, 5000, 200 * KIB, 6 * MIB] {
                let bytes = pattern(len);
                let (client, inner) = link(from).await?;
                let (outer, server) = link(to).await?;
                let all = bytes.clone();
                let sender = spawn(async move {
                    client.send(&all).await?;
                    client.close().await
                });
                let receiver = spawn(async move { server.receive_all().await });
                assert_eq!(inner.copy_to(&outer).await?, len as u64, "{from} {to}");
                outer.close().await?;
                sender.await??;
                assert!(receiver.await?? == bytes, "{len} bytes, pipes: {from} {to}");
            }
            let spliced = metrics().submitted_of("splice") - before;
            assert!(!cx.is_uring() || spliced > 0, "bulk goes by splices, pipes: {from} {to}");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_count_is_kept_to_the_byte(cx: Cx) {
    cx.run(async {
        for (from, to) in KINDS.into_iter().chain([(false, false)]) {
            let bytes = Rc::new(pattern(3 * MIB));
            let (client, inner) = link(from).await?;
            let (outer, server) = link(to).await?;
            let all = bytes.clone();
            let sender = spawn(async move {
                client.send(&all).await?;
                client.close().await
            });
            let mut at = 0;
            for count in [0, 1, 10, 5000, 300 * KIB, MIB + 1] {
                let (copied, received) =
                    join!(inner.copy_to(&outer).count(count as u64), server.receive_exactly(count));
                assert_eq!(copied?, count as u64);
                assert!(received? == bytes[at..at + count], "{count} bytes from {at}, pipes: {from} {to}");
                at += count;
            }
            // What comes behind can still be received; and more than there is cannot be sent.
            assert!(inner.receive_exactly(1000).await? == bytes[at..at + 1000]);
            at += 1000;
            let copying = async {
                let copied = inner.copy_to(&outer).count(u64::MAX).await?;
                outer.close().await?;
                Ok::<_, io::Error>(copied)
            };
            let (copied, rest) = join!(copying, server.receive_all());
            assert_eq!(copied?, (bytes.len() - at) as u64);
            assert!(rest? == bytes[at..], "the rest, pipes: {from} {to}");
            sender.await??;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_cancel_at_any_moment_loses_no_byte(cx: Cx) {
    cx.run(async {
        let bytes = Rc::new(pattern(2 * MIB));
        let (mut random, mut stopped) = (Random(9), 0);
        for round in 0..24 {
            let (from, to) = KINDS[round % 3];
            let (client, inner) = link(from).await?;
            let (outer, server) = link(to).await?;
            let receiver = spawn(async move { server.receive_all().await });
            let all = bytes.clone();
            let sender = spawn(async move {
                client.send(&all).await?;
                client.close().await
            });
            let (copied, was_stopped) = cancelled_after(random.below(60), inner.copy_to(&outer)).await?;
            stopped += usize::from(was_stopped);
            let rest = inner.receive_all().await?;
            assert!(rest == bytes[copied..], "round {round}: {copied} copied, {} left", rest.len());
            outer.send(b"end").await?;
            outer.close().await?;
            sender.await??;
            assert!(receiver.await?? == [&bytes[..copied], b"end"].concat(), "round {round}");
        }
        assert!(stopped > 4, "{stopped} were stopped");
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_copy_loses_no_byte(cx: Cx) {
    cx.run(async {
        let bytes = pattern(2 * MIB);
        for (from, to) in KINDS {
            for moment in [0, 1, 2, 5, 13] {
                let (client, inner) = link(from).await?;
                let (outer, server) = link(to).await?;
                let all = bytes.clone();
                let sender = spawn(async move {
                    client.send(&all).await?;
                    client.close().await
                });
                let mut copying = Box::pin(inner.copy_to(&outer));
                for _ in 0..moment {
                    if copying.as_mut().now_or_never().is_some() {
                        break;
                    }
                    turns(1).await;
                }
                drop(copying);
                let closing = async {
                    let rest = inner.receive_all().await?;
                    outer.close().await?;
                    Ok::<_, io::Error>(rest)
                };
                let (rest, before) = join!(closing, server.receive_all());
                let (rest, before) = (rest?, before?);
                assert_eq!(
                    before.len() + rest.len(),
                    bytes.len(),
                    "after {moment} turns, pipes: {from} {to}"
                );
                assert!([before, rest].concat() == bytes, "after {moment} turns, pipes: {from} {to}");
                sender.await??;
            }
        }
        Ok::<_, io::Error>(())
    });
}

fn a_reader_that_is_gone_ends_a_copy_with_a_count(cx: Cx) {
    cx.run(async {
        for from in [false, true] {
            let (client, inner) = link(from).await?;
            let (outer, server) = link(true).await?;
            let sender = spawn(async move { client.send(&vec![7; 16 * MIB]).await });
            let leaving = async {
                server.receive_exactly(300 * KIB).await?;
                drop(server);
                Ok::<_, io::Error>(())
            };
            let (copied, left) = join!(inner.copy_to(&outer), leaving);
            left?;
            let failed = copied.expect_err("nobody reads");
            assert_eq!(failed.error.kind(), io::ErrorKind::BrokenPipe, "{failed}");
            assert!((300 * KIB..16 * MIB).contains(&failed.done), "{failed}");
            drop(inner);
            sender.await?.expect_err("nor here");
        }
        Ok::<_, io::Error>(())
    });
}

fn what_is_no_pipe_is_copied_all_the_same(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let (bytes, path) = (pattern(MIB + 3), folder.path("regular"));
        // Into a regular file, and out of it.
        let (client, inner) = link(false).await?;
        let writer = PipeWriter::from_fd(fs::File::create(&path)?)?;
        let all = bytes.clone();
        let sender = spawn(async move {
            client.send(&all).await?;
            client.close().await
        });
        let Source::Socket(inner) = inner else { unreachable!("it was asked for") };
        assert_eq!(inner.copy_to(&writer).await?, bytes.len() as u64);
        sender.await??;
        let file = File::open(&path).await?;
        assert_eq!(writer.send_file(&file).count(MIB as u64).await?, MIB as u64);
        writer.close().await?;
        assert!(fs::read(&path)? == [&bytes[..], &bytes[..MIB]].concat());
        let reader = PipeReader::from_fd(fs::File::open(&path)?)?;
        let (outer, server) = UnixStream::pair()?;
        let receiver = spawn(async move {
            let mut count = 0;
            while let Some(chunk) = server.receive().await? {
                count += chunk.len();
            }
            Ok::<_, io::Error>(count)
        });
        assert_eq!(reader.copy_to(&outer).await?, 2 * MIB as u64 + 3);
        drop(outer);
        assert_eq!(receiver.await??, 2 * MIB + 3);
        Ok::<_, io::Error>(())
    });
}

fn halves_of_streams_copy_too(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixStream::pair()?;
        let (near, far) = UnixStream::pair()?;
        let ((receive, _keep), (_other, send)) = (theirs.split(), near.split());
        ours.send("through halves").await?;
        ours.shutdown_write().await?;
        assert_eq!(receive.copy_to(&send).count(7).await?, 7);
        assert_eq!(receive.copy_to(&send).await?, 7);
        assert_eq!(&far.receive().await?.expect("bytes")[..], b"through halves");
        Ok::<_, io::Error>(())
    });
}

fn files_of_all_sizes_go_into_a_pipe(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        for len in [0, 1, 4096, 64 * KIB, 64 * KIB + 1, 3 * MIB + 17] {
            let (bytes, path) = (pattern(len), folder.path(&format!("{len}")));
            fs::write(&path, &bytes)?;
            let file = File::open(&path).await?;
            for variant in 0..8 {
                let (counted, fallback, inline) = (variant & 1 != 0, variant & 2 != 0, variant & 4 != 0);
                let (reader, writer) = pipe().await?;
                let receiver = spawn(async move { Source::Pipe(reader).receive_all().await });
                let mut sending = writer.send_file(&file).fallback(fallback).inline(inline);
                if counted {
                    sending = sending.count(len as u64);
                }
                assert_eq!(sending.await?, len as u64);
                writer.write("behind it")?;
                writer.close().await?;
                assert!(receiver.await?? == [&bytes[..], b"behind it"].concat(), "{len}, variant {variant}");
            }
        }
        let spliced = metrics().submitted_of("splice");
        assert!(!cx.is_uring() || spliced > 0);
        Ok::<_, io::Error>(())
    });
}

fn a_reader_that_waits_holds_nothing_but_the_pipe(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("file");
        fs::write(&path, pattern(MIB))?;
        let file = Rc::new(File::open(&path).await?);
        let (mut readers, mut senders) = (Vec::new(), Vec::new());
        // More than the ring has threads for splices on a small machine.
        for _ in 0..20 {
            let (reader, writer) = pipe().await?;
            let file = file.clone();
            senders.push(spawn(async move { writer.send_file(&*file).count(MIB as u64).await }));
            readers.push(reader);
        }
        turns(50).await;
        let (ours, theirs) = UnixStream::pair()?;
        let receives = theirs.receive_into(Vec::with_capacity(MIB));
        let (sent, received) = join!(ours.send_file(&*file).count(100 * KIB as u64), receives);
        assert_eq!(sent?, 100 * KIB as u64);
        assert!(received?.0 > 0);
        for reader in readers {
            assert!(Source::Pipe(reader).receive_exactly(MIB).await? == pattern(MIB));
        }
        for sender in senders {
            assert_eq!(sender.await??, MIB as u64);
        }
        Ok::<_, io::Error>(())
    });
}

fn a_cancelled_file_leaves_an_exact_count_and_a_working_pipe(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let (bytes, path) = (pattern(3 * MIB), folder.path("file"));
        fs::write(&path, &bytes)?;
        let file = File::open(&path).await?;
        let (mut random, mut stopped) = (Random(3), 0);
        for round in 0..16 {
            let (reader, writer) = pipe().await?;
            let receiver = spawn(async move { Source::Pipe(reader).receive_all().await });
            let sending = writer.send_file(&file).count(bytes.len() as u64);
            let (sent, was_stopped) = cancelled_after(random.below(40), sending).await?;
            stopped += usize::from(was_stopped);
            writer.send("and on").await?;
            writer.close().await?;
            assert!(receiver.await?? == [&bytes[..sent], b"and on"].concat(), "round {round}");
        }
        assert!(stopped > 2, "{stopped} were stopped");
        // Nobody reads: the writer is told, with what the pipe had taken.
        let (reader, writer) = pipe().await?;
        let mut sending = writer.send_file(&file);
        assert!((&mut sending).now_or_never().is_none());
        until(|| sending.sent() > 0).await;
        drop(reader);
        let failed = sending.await.expect_err("nobody reads");
        assert_eq!(failed.error.kind(), io::ErrorKind::BrokenPipe, "{failed}");
        assert!((1..3 * MIB).contains(&failed.done), "{failed}");
        Ok::<_, io::Error>(())
    });
}
