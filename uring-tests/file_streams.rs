//! Files as streams of bytes.

use std::future::Future;
use std::io::{self, SeekFrom};
use std::pin::pin;
use std::task::{Context, Waker};

use proactor::cancel::CancelScope;
use proactor::fs::{File, FileReadStream, FileStreamAttribute, FileWriteStream};
use proactor::stream::{
    AsyncResource, BufferedByteReceiveStream, ByteReceiveStream, ByteSendStream, TypedAttributeProvider,
};
use proactor::{Busy, Closed, MayBeCancelled};

use crate::harness::{Cx, Folder, both_drivers, turns};
use crate::wrappers::is;

both_drivers!(
    a_file_is_received_piece_by_piece_and_in_order,
    a_stream_goes_to_any_position,
    what_is_sent_is_in_the_file_in_order,
    a_file_is_gone_on_with_at_its_end,
    a_receive_that_is_dropped_or_cancelled_loses_nothing,
    a_send_that_is_dropped_keeps_its_room,
    a_second_task_is_told_that_it_is_busy,
    a_closed_stream_says_so,
    a_failure_says_how_much_was_sent,
    a_stream_knows_its_file,
);

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

fn poll_once(future: impl Future) {
    // On both drivers a file takes longer than that.
    assert!(pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

fn a_file_is_received_piece_by_piece_and_in_order(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("file");
        std::fs::write(&path, pattern(300_000))?;
        let stream = FileReadStream::from_path(&path).await?;
        let mut data = Vec::new();
        while let Some(chunk) = stream.receive().await? {
            assert!(!chunk.is_empty());
            data.extend_from_slice(&chunk);
            assert_eq!(stream.tell(), data.len() as u64);
        }
        assert!(data == pattern(300_000));
        assert!(stream.receive().await?.is_none());
        // It grows.
        std::fs::write(&path, pattern(300_001))?;
        assert_eq!(stream.receive().await?.expect("one more").len(), 1);
        stream.aclose().await?;
        let missing = FileReadStream::from_path(folder.path("nothing")).await.expect_err("it is not there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        // Below a wrapper.
        std::fs::write(&path, "one\ntwo\n")?;
        let lines = BufferedByteReceiveStream::new(FileReadStream::from_path(&path).await?);
        assert_eq!(&lines.receive_until(b"\n", 100).await?[..], b"one");
        assert_eq!(&lines.receive_until(b"\n", 100).await?[..], b"two");
        lines.aclose().await
    });
}

fn a_stream_goes_to_any_position(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("file");
        std::fs::write(&path, "0123456789")?;
        let stream = FileReadStream::new(File::open(&path).await?);
        assert_eq!(stream.seek(SeekFrom::Start(3)).await?, 3);
        assert_eq!(&stream.receive().await?.expect("bytes")[..], b"3456789");
        assert_eq!(stream.seek(SeekFrom::Current(-2)).await?, 8);
        assert_eq!(&stream.receive().await?.expect("bytes")[..], b"89");
        assert_eq!(stream.seek(SeekFrom::End(-1)).await?, 9);
        assert_eq!(&stream.receive().await?.expect("bytes")[..], b"9");
        assert_eq!(stream.seek(SeekFrom::End(5)).await?, 15);
        assert!(stream.receive().await?.is_none());
        let refused = stream.seek(SeekFrom::Current(-16)).await.expect_err("before the beginning");
        assert_eq!((refused.kind(), stream.tell()), (io::ErrorKind::InvalidInput, 15));
        stream.aclose().await
    });
}

fn what_is_sent_is_in_the_file_in_order(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("file");
        std::fs::write(&path, pattern(1 << 20))?;
        let stream = FileWriteStream::from_path(&path).await?;
        for part in pattern(300_000).chunks(7000) {
            assert_eq!(stream.send(part.to_vec()).await?, part);
        }
        stream.send("").await?;
        stream.aclose().await?;
        assert!(std::fs::read(&path)? == pattern(300_000), "and nothing of what was there");
        Ok::<_, io::Error>(())
    });
}

fn a_file_is_gone_on_with_at_its_end(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("file");
        let stream = FileWriteStream::append_to(&path).await?;
        stream.send("one ").await?;
        let other = FileWriteStream::append_to(&path).await?;
        other.send("two ").await?;
        stream.send("three").await?;
        stream.aclose().await?;
        other.aclose().await?;
        assert_eq!(std::fs::read_to_string(&path)?, "one two three");
        Ok::<_, io::Error>(())
    });
}

fn a_receive_that_is_dropped_or_cancelled_loses_nothing(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("file");
        std::fs::write(&path, pattern(100))?;
        let stream = FileReadStream::from_path(&path).await?;
        poll_once(stream.receive());
        turns(3).await;
        let scope = CancelScope::new();
        scope.cancel();
        let told = scope.run(async {
            let error = stream.receive().await.expect_err("it is cancelled");
            assert!(error.is_cancelled());
            Err::<(), _>(error)
        });
        assert!(told.await?.is_none());
        assert_eq!(stream.tell(), 0);
        assert!(stream.receive().await?.expect("bytes")[..] == pattern(100));
        stream.aclose().await
    });
}

fn a_send_that_is_dropped_keeps_its_room(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("file");
        let stream = FileWriteStream::from_path(&path).await?;
        poll_once(stream.send("dropped "));
        stream.send("behind").await?;
        stream.aclose().await?;
        let data = std::fs::read(&path)?;
        assert_eq!(&data[8..], b"behind");
        assert!(data.starts_with(b"dropped ") || data.starts_with(&[0; 8]));
        Ok::<_, io::Error>(())
    });
}

fn a_second_task_is_told_that_it_is_busy(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("file");
        let writes = FileWriteStream::from_path(&path).await?;
        let mut send = pin!(writes.send("one"));
        assert!(send.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(is::<Busy>(&writes.send("two").await.expect_err("one at a time").error));
        send.await?;
        let reads = FileReadStream::from_path(&path).await?;
        let mut receive = pin!(reads.receive());
        assert!(receive.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(is::<Busy>(&reads.receive().await.expect_err("one at a time")));
        assert!(is::<Busy>(&reads.seek(SeekFrom::Start(0)).await.expect_err("not now")));
        assert_eq!(&receive.await?.expect("bytes")[..], b"one");
        Ok::<_, io::Error>(())
    });
}

fn a_closed_stream_says_so(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("file");
        let writes = FileWriteStream::from_path(&path).await?;
        let reads = FileReadStream::from_path(&path).await?;
        for _ in 0..2 {
            writes.aclose().await?;
            reads.aclose().await?;
        }
        assert!(is::<Closed>(&writes.send("x").await.expect_err("closed").error));
        assert!(is::<Closed>(&reads.receive().await.expect_err("closed")));
        assert!(is::<Closed>(&reads.seek(SeekFrom::Start(0)).await.expect_err("closed")));
        // Whoever receives meanwhile is told.
        std::fs::write(&path, "bytes")?;
        let reads = FileReadStream::from_path(&path).await?;
        let mut receive = pin!(reads.receive());
        assert!(receive.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        reads.aclose().await?;
        assert!(is::<Closed>(&receive.await.expect_err("closed")));
        Ok::<_, io::Error>(())
    });
}

fn a_failure_says_how_much_was_sent(cx: Cx) {
    cx.run(async {
        let full = FileWriteStream::from_path("/dev/full").await?;
        let failed = full.send("no room").await.expect_err("the disk is full");
        assert_eq!(
            (failed.error.kind(), failed.done, failed.buf),
            (io::ErrorKind::StorageFull, 0, "no room")
        );
        let stream = FileReadStream::from_path("/").await?;
        assert_eq!(stream.receive().await.expect_err("a directory").kind(), io::ErrorKind::IsADirectory);
        Ok::<_, io::Error>(())
    });
}

fn a_stream_knows_its_file(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("file");
        let stream = FileWriteStream::from_path(&path).await?;
        assert_eq!(stream.extra(FileStreamAttribute::PATH)?, path);
        assert!(stream.extra(FileStreamAttribute::RAW_FD)? > 2);
        stream.aclose().await?;
        assert!(stream.extra(FileStreamAttribute::RAW_FD).is_err());
        let stream = FileReadStream::new(File::open(&path).await?);
        assert!(stream.extra(FileStreamAttribute::PATH).is_err(), "nobody said it");
        stream.aclose().await
    });
}
