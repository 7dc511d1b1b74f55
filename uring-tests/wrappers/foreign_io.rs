//! Streams of ours behind the I/O traits of others.

use std::io;
use std::time::Duration;

use futures_util::join;
use proactor::cancel::move_on_after;
use proactor::compat::ForeignIo;
use proactor::net::TcpStream;
use proactor::stream::BufferedByteStream;
use proactor::{MayBeCancelled, spawn};

use crate::harness::{Cx, both_drivers, tcp_pair, turns};
use crate::wrappers::Script;

both_drivers!(
    much_is_copied_by_the_functions_of_futures,
    much_is_copied_by_the_functions_of_tokio,
    a_read_that_is_cancelled_or_dropped_loses_nothing,
    the_end_is_sent_once_and_receiving_goes_on,
    a_stream_comes_back_with_what_was_not_read,
    a_stream_without_poll_faces_is_refused,
);

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

async fn pair() -> io::Result<(ForeignIo<TcpStream>, ForeignIo<TcpStream>)> {
    let (ours, theirs) = tcp_pair().await?;
    Ok((ForeignIo::new(ours)?, ForeignIo::new(theirs)?))
}

fn much_is_copied_by_the_functions_of_futures(cx: Cx) {
    use futures_util::io::{AsyncReadExt, AsyncWriteExt, copy_buf};
    cx.run(async {
        let (ours, theirs) = pair().await?;
        let data = pattern(5 << 20);
        let echo = spawn(async move {
            let (reads, mut writes) = theirs.split();
            copy_buf(futures_util::io::BufReader::new(reads), &mut writes).await?;
            writes.close().await
        });
        let (mut reads, mut writes) = ours.split();
        let mut all = Vec::new();
        let (sent, received) = join!(
            async {
                writes.write_all(&data).await?;
                writes.close().await
            },
            reads.read_to_end(&mut all)
        );
        sent?;
        assert_eq!(received?, data.len());
        assert!(all == data);
        echo.await?
    });
}

fn much_is_copied_by_the_functions_of_tokio(cx: Cx) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    cx.run(async {
        let (mut ours, mut theirs) = pair().await?;
        let data = pattern(5 << 20);
        let copy = data.clone();
        let sender = spawn(async move {
            ours.write_all(&copy).await?;
            ours.shutdown().await?;
            Ok::<_, io::Error>(ours)
        });
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).await?;
        assert!(all == data);
        drop(sender.await??);
        Ok::<_, io::Error>(())
    });
}

fn a_read_that_is_cancelled_or_dropped_loses_nothing(cx: Cx) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    cx.run(async {
        let (mut ours, mut theirs) = pair().await?;
        let mut buf = [0; 3];
        let waited = move_on_after(Duration::from_millis(1), ours.read(&mut buf)).await?;
        assert!(waited.is_none(), "nothing came");
        let scope = proactor::cancel::CancelScope::new();
        scope.cancel();
        let told = scope.run(async {
            let error = ours.read(&mut buf).await.expect_err("it is cancelled");
            assert!(error.is_cancelled());
            Err::<(), _>(error)
        });
        assert!(told.await?.is_none());
        theirs.write_all(b"hello").await?;
        theirs.flush().await?;
        {
            let read = ours.read(&mut buf);
            let mut read = std::pin::pin!(read);
            while futures_util::poll!(read.as_mut()).is_pending() {
                turns(1).await;
            }
        }
        let mut rest = [0; 2];
        ours.read_exact(&mut rest).await?;
        assert_eq!((&buf, &rest), (b"hel", b"lo"));
        Ok::<_, io::Error>(())
    });
}

fn the_end_is_sent_once_and_receiving_goes_on(cx: Cx) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    cx.run(async {
        let (mut ours, mut theirs) = pair().await?;
        ours.write_all(b"last").await?;
        ours.shutdown().await?;
        ours.shutdown().await?;
        assert_eq!(
            ours.write_all(b"more").await.expect_err("it was ended").kind(),
            io::ErrorKind::BrokenPipe
        );
        let mut all = String::new();
        theirs.read_to_string(&mut all).await?;
        theirs.write_all(b"answer").await?;
        theirs.shutdown().await?;
        ours.read_to_string(&mut all).await?;
        assert_eq!(all, "lastanswer");
        Ok::<_, io::Error>(())
    });
}

fn a_stream_comes_back_with_what_was_not_read(cx: Cx) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    cx.run(async {
        let (mut ours, mut theirs) = pair().await?;
        theirs.write_all(b"hello").await?;
        theirs.flush().await?;
        assert_eq!(ours.read_u8().await?, b'h');
        let (stream, rest) = ours.into_inner();
        assert_eq!(rest.as_deref(), Some(&b"ello"[..]));
        theirs.write_all(b" again").await?;
        theirs.flush().await?;
        assert_eq!(&stream.receive().await?.expect("bytes")[..], b" again");
        Ok::<_, io::Error>(())
    });
}

fn a_stream_without_poll_faces_is_refused(cx: Cx) {
    cx.run(async {
        let refused = ForeignIo::new(Script::new(["one"])).err().expect("it has none");
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
        let (ours, _theirs) = tcp_pair().await?;
        let refused = ForeignIo::new(BufferedByteStream::new(ours)).expect_err("it has none");
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
        Ok::<_, io::Error>(())
    });
}
