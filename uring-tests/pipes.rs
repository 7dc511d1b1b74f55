//! Pipes and the standard streams, as their users see them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::poll;
use proactor::cancel::move_on_after;
use proactor::net::{PipeReader, PipeWriter, UnixStream, pipe, stderr, stdin, stdout};
use proactor::stream::{AsyncResource, ByteReceiveStream, ByteSendStream};
use proactor::{EventLoop, metrics, spawn};

use crate::harness::{Cx, Folder, both_drivers, many, turns};
use crate::processes::child_of;

both_drivers!(
    bytes_go_through_a_pipe_until_it_ends,
    many_bytes_go_through_a_pipe_with_back_pressure,
    a_cancelled_receive_loses_no_byte_of_a_pipe,
    a_pipe_that_nobody_reads_is_broken_and_kills_nobody,
    a_named_pipe_waits_for_its_other_end,
    ends_of_pipes_come_from_std_and_go_there,
    a_regular_file_is_read_and_written_where_it_stands,
    a_device_can_be_read_and_written,
    closing_a_pipe_sends_what_was_written,
    pipes_are_streams,
    the_standard_streams_are_left_as_they_are,
    nothing_can_be_sent_through_each_medium,
);

fn bytes_go_through_a_pipe_until_it_ends(cx: Cx) {
    cx.run(async {
        let (reader, writer) = pipe().await?;
        for round in 0..10_u8 {
            writer.send(vec![round; 100]).await?;
            if round % 2 == 0 {
                assert_eq!(&reader.receive().await?.expect("bytes")[..], [round; 100]);
            } else {
                assert_eq!(reader.receive_into(vec![0; 200]).await?, (100, vec![round; 100]));
            }
        }
        writer.send_vectored(vec!["one", "two", "", "three"]).await?;
        assert_eq!(&reader.receive().await?.expect("bytes")[..], b"onetwothree");
        let mut first = pin!(reader.receive());
        assert!(poll!(&mut first).is_pending());
        assert_eq!(reader.receive().await.expect_err("busy").kind(), io::ErrorKind::ResourceBusy);
        drop(writer);
        assert!(first.await?.is_none());
        assert!(reader.receive().await?.is_none());
        assert_eq!(reader.receive_into(vec![0; 9]).await?.0, 0);
        if cx.is_uring() && cx.has("multishot receive") {
            assert!(metrics().submitted_of("read") > 0);
        }
        Ok::<_, io::Error>(())
    });
}

fn many_bytes_go_through_a_pipe_with_back_pressure(cx: Cx) {
    let total = many(8 << 20);
    cx.run(async {
        let (reader, writer) = pipe().await?;
        let sender = spawn(async move {
            let part: Vec<u8> = (0..251 << 9).map(|at| (at % 251) as u8).collect();
            let mut sent = 0;
            while sent < total {
                if sent % 3 == 0 {
                    writer.write(part.clone())?;
                    writer.flush().await?;
                } else {
                    writer.send(part.clone()).await?;
                }
                sent += part.len();
            }
            writer.close().await?;
            Ok::<_, io::Error>(sent)
        });
        turns(20).await;
        assert!(!sender.is_finished(), "a pipe holds less");
        let mut received = 0;
        while let Some(chunk) = reader.receive().await? {
            let expected = (received..received + chunk.len()).map(|at| (at % 251) as u8);
            assert!(chunk.iter().copied().eq(expected), "wrong bytes behind {received}");
            received += chunk.len();
        }
        assert_eq!(sender.await??, received);
        Ok::<_, io::Error>(())
    });
}

fn a_cancelled_receive_loses_no_byte_of_a_pipe(cx: Cx) {
    cx.run(async {
        let (reader, writer) = pipe().await?;
        for round in 0..60_u8 {
            match round % 3 {
                0 => assert!(poll!(pin!(reader.receive())).is_pending()),
                1 => assert!(poll!(pin!(reader.receive_into(vec![0; 100]))).is_pending()),
                _ => assert!(move_on_after(Duration::ZERO, reader.receive()).await?.is_none()),
            }
            writer.send(vec![round; 3]).await?;
            turns(usize::from(round) % 4).await;
            assert_eq!(&reader.receive().await?.expect("bytes")[..], [round; 3]);
        }
        Ok::<_, io::Error>(())
    });
}

fn a_pipe_that_nobody_reads_is_broken_and_kills_nobody(cx: Cx) {
    cx.run(async {
        let (reader, writer) = pipe().await?;
        assert!(poll!(pin!(writer.send(vec![1; 1 << 20]))).is_pending());
        turns(3).await;
        reader.close().await?;
        for _ in 0..3 {
            let failed = writer.send("anybody?").await.expect_err("nobody");
            assert_eq!(failed.error.kind(), io::ErrorKind::BrokenPipe);
        }
        assert_eq!(writer.write("x").expect_err("nobody").kind(), io::ErrorKind::BrokenPipe);
        Ok::<_, io::Error>(())
    });
}

fn make_fifo(folder: &Folder) -> std::path::PathBuf {
    let path = folder.path("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    path
}

fn a_named_pipe_waits_for_its_other_end(cx: Cx) {
    let folder = Folder::new();
    let path = make_fifo(&folder);
    cx.run(async {
        // No reader yet: the writer waits, and can be cancelled.
        let limited = move_on_after(Duration::from_millis(10), PipeWriter::open(&path));
        assert!(limited.await?.is_none());
        for into in [false, true] {
            let reader = PipeReader::open(&path).await?;
            // No writer yet, and no end either.
            assert!(poll!(pin!(reader.receive())).is_pending());
            turns(5).await;
            let limited = move_on_after(Duration::from_millis(5), async {
                if into {
                    return reader.receive_into(vec![0; 9]).await.map(drop).map_err(io::Error::from);
                }
                reader.receive().await.map(drop)
            });
            assert!(limited.await?.is_none(), "it has not ended before it began");
            let writer = PipeWriter::open(&path).await?;
            writer.send("hello").await?;
            if into {
                assert_eq!(reader.receive_into(vec![0; 5]).await?, (5, b"hello".to_vec()));
            } else {
                assert_eq!(&reader.receive().await?.expect("bytes")[..], b"hello");
            }
            writer.close().await?;
            assert!(reader.receive().await?.is_none());
        }
        let plain = folder.path("file");
        fs::write(&plain, "text")?;
        let refused = PipeReader::open(&plain).await.expect_err("no pipe");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        let missing = PipeReader::open(folder.path("missing")).await.expect_err("nothing there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        Ok::<_, io::Error>(())
    });
}

fn ends_of_pipes_come_from_std_and_go_there(cx: Cx) {
    cx.run(async {
        let (std_reader, mut std_writer) = io::pipe()?;
        let reader = PipeReader::from_fd(std_reader)?;
        std_writer.write_all(b"one")?;
        assert_eq!(&reader.receive().await?.expect("bytes")[..], b"one");
        assert!(poll!(pin!(reader.receive())).is_pending());
        std_writer.write_all(b"two")?;
        turns(3).await;
        let (fd, received) = reader.into_fd().await?;
        let mut bytes: Vec<u8> = received.iter().flat_map(|chunk| chunk.to_vec()).collect();
        drop(received);
        let reader = PipeReader::from_fd(fd)?;
        drop(std_writer);
        while let Some(chunk) = reader.receive().await? {
            bytes.extend_from_slice(&chunk);
        }
        assert_eq!(bytes, b"two");
        let (mut std_reader, std_writer) = io::pipe()?;
        let writer = PipeWriter::from_fd(std_writer)?;
        writer.write("three")?;
        let fd = writer.into_fd().await?;
        drop(fd);
        let mut text = String::new();
        std_reader.read_to_string(&mut text)?;
        assert_eq!(text, "three");
        Ok::<_, io::Error>(())
    });
}

fn a_regular_file_is_read_and_written_where_it_stands(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("file");
        let text: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        let writer = PipeWriter::from_fd(File::create(&path)?)?;
        writer.send(text[..100_000].to_vec()).await?;
        writer.write(text[100_000..150_000].to_vec())?;
        writer.send_vectored(vec![text[150_000..160_000].to_vec(), text[160_000..].to_vec()]).await?;
        writer.close().await?;
        assert!(fs::read(&path)? == text);
        let reader = PipeReader::from_fd(File::open(&path)?)?;
        let mut read = Vec::new();
        let (count, buf) = reader.receive_into(vec![0; 1000]).await?;
        read.extend_from_slice(&buf[..count]);
        while let Some(chunk) = reader.receive().await? {
            read.extend_from_slice(&chunk);
        }
        assert!(read == text);
        assert!(reader.receive().await?.is_none());
        Ok::<_, io::Error>(())
    });
}

fn a_device_can_be_read_and_written(cx: Cx) {
    cx.run(async {
        let sink = PipeWriter::from_fd(File::create("/dev/null")?)?;
        sink.send(vec![1; 100_000]).await?;
        sink.close().await?;
        let empty = PipeReader::from_fd(File::open("/dev/null")?)?;
        assert!(empty.receive().await?.is_none());
        let zeroes = PipeReader::from_fd(File::open("/dev/zero")?)?;
        assert!(zeroes.receive().await?.expect("bytes").iter().all(|byte| *byte == 0));
        assert_eq!(zeroes.receive_into(vec![1; 10]).await?.0, 10);
        let refused = PipeReader::from_fd(File::open("/")?).expect_err("a directory");
        assert_eq!(refused.kind(), io::ErrorKind::IsADirectory);
        Ok::<_, io::Error>(())
    });
}

fn closing_a_pipe_sends_what_was_written(cx: Cx) {
    cx.run(async {
        let (reader, writer) = pipe().await?;
        for _ in 0..100 {
            writer.write(vec![3; 2000])?;
        }
        let closer = spawn(writer.close());
        let mut received = 0;
        while let Some(chunk) = reader.receive().await? {
            received += chunk.len();
        }
        closer.await??;
        assert_eq!(received, 200_000);
        // Dropped, what is queued is dropped, and nothing is left behind.
        let (reader, writer) = pipe().await?;
        writer.write(vec![3; 1 << 20])?;
        drop(writer);
        while reader.receive().await?.is_some() {}
        Ok::<_, io::Error>(())
    });
}

fn pipes_are_streams(cx: Cx) {
    cx.run(async {
        let (reader, writer) = pipe().await?;
        let sender = spawn(async move {
            ByteSendStream::send(&writer, "through the trait").await?;
            writer.write(vec![7; 300_000])?;
            writer.aclose().await?;
            writer.aclose().await?;
            let failed = ByteSendStream::send(&writer, "x").await.expect_err("closed");
            assert_eq!(failed.error.kind(), io::ErrorKind::NotConnected);
            Ok::<_, io::Error>(())
        });
        let mut received = 0;
        while let Some(chunk) = ByteReceiveStream::receive(&reader).await? {
            received += chunk.len();
        }
        assert_eq!(received, 300_017);
        reader.aclose().await?;
        assert_eq!(reader.receive().await.expect_err("closed").kind(), io::ErrorKind::NotConnected);
        sender.await?
    });
}

/// Started again by this test, copies its standard input to its standard output.
const CHILD: &str = "PROACTOR_TEST_COPY";

fn copies_its_input() -> io::Result<()> {
    let event_loop = EventLoop::builder().build()?;
    event_loop.run_until_complete(async {
        let (input, output) = (stdin()?, stdout()?);
        output.send("begin:").await?;
        while let Some(chunk) = input.receive().await? {
            output.send(chunk).await?;
        }
        output.close().await
    })?
}

fn the_standard_streams_are_left_as_they_are(cx: Cx) {
    if std::env::var_os(CHILD).is_some() {
        copies_its_input().expect("it copies");
        std::process::exit(0);
    }
    let folder = Folder::new();
    let name = format!("pipes::{}::the_standard_streams", if cx.is_uring() { "uring" } else { "epoll" });
    let child = || {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let driver = if cx.is_uring() { "io_uring" } else { "epoll" };
        command.args([&name, "--nocapture", "--quiet"]).env(CHILD, "1").env("PROACTOR_DRIVER", driver);
        command
    };
    let after_begin = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.split_once("begin:").expect("it began").1.to_owned()
    };
    // Pipes.
    let mut running = child().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a child");
    running.stdin.take().expect("a pipe").write_all(b"through pipes").expect("it reads");
    let output = running.wait_with_output().expect("its output");
    assert_eq!(after_begin(&output.stdout), "through pipes");
    // Regular files, from where they stand.
    let path = folder.path("input");
    fs::write(&path, "skipped through files").expect("a file");
    let mut input = File::open(&path).expect("a file");
    input.read_exact(&mut [0; 8]).expect("a beginning");
    let sink = File::create(folder.path("output")).expect("a file");
    let status = child().stdin(input).stdout(sink).status().expect("a child");
    assert!(status.success());
    assert_eq!(after_begin(&fs::read(folder.path("output")).expect("its output")), "through files");
    // A socket, which is as it was when the child is gone.
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let shared = theirs.try_clone().expect("a copy");
    let input: std::os::fd::OwnedFd = theirs.into();
    let running = child().stdin(input).stdout(Stdio::piped()).spawn().expect("a child");
    (&ours).write_all(b"through a socket").expect("it reads");
    ours.shutdown(std::net::Shutdown::Write).expect("an end");
    let output = running.wait_with_output().expect("its output");
    assert_eq!(after_begin(&output.stdout), "through a socket");
    let flags = socket2::SockRef::from(&shared).nonblocking().expect("flags");
    assert!(!flags, "it still blocks for others");
}

/// Sends no buffers, and empty ones, and then something.
macro_rules! send_nothing {
    ($to:expr) => {
        assert!($to.send_vectored(Vec::<Vec<u8>>::new()).await?.is_empty());
        assert_eq!($to.send_vectored(vec![Vec::new(), Vec::new()]).await?.len(), 2);
        $to.send(Vec::<u8>::new()).await?;
        $to.write(Vec::<u8>::new())?;
        $to.flush().await?;
    };
}

fn nothing_can_be_sent_through_each_medium(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let (ours, theirs) = UnixStream::pair()?;
        send_nothing!(ours);
        ours.send_vectored(vec!["", "some", "", "thing"]).await?;
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"something");

        let (reader, writer) = pipe().await?;
        send_nothing!(writer);
        writer.send_vectored(vec!["", "some", "", "thing"]).await?;
        assert_eq!(&reader.receive().await?.expect("bytes")[..], b"something");

        let path = folder.path("file");
        let writer = PipeWriter::from_fd(File::create(&path)?)?;
        send_nothing!(writer);
        writer.send_vectored(vec!["", "some", "", "thing"]).await?;
        writer.close().await?;
        assert_eq!(fs::read(&path)?, b"something");
        Ok::<_, io::Error>(())
    });
    // What cannot be opened once more is shared with others: a named pipe that nobody reads is one.
    let path = make_fifo(&folder);
    let both = File::options().read(true).write(true).open(&path).expect("a pipe");
    let writer = File::options().write(true).open(&path).expect("somebody reads");
    drop(both);
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.stderr(writer);
    child_of(command, cx, "vectored-to-a-shared-pipe");
}

pub(crate) fn vectored_to_a_shared_pipe(cx: Cx) -> Result<(), String> {
    cx.run(async {
        let shared = stderr()?;
        send_nothing!(shared);
        let failed = shared.send_vectored(vec!["some", "thing"]).await.expect_err("nobody reads");
        assert_eq!(failed.error.kind(), io::ErrorKind::BrokenPipe);
        Ok::<_, io::Error>(())
    });
    Ok(())
}
