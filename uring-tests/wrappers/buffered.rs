//! Exact numbers of bytes, delimiters, text, and two streams as one.

use std::io;

use futures_util::{join, poll};
use proactor::cancel::move_on_after;
use proactor::net::TcpStream;
use proactor::stream::{
    AsyncResource, BufferedByteReceiveStream, BufferedByteStream, ByteReceiveStream, ByteSendStream,
    ByteStream, ObjectStream, SocketAttribute, StapledByteStream, StapledObjectStream, TextErrors,
    TextOptions, TextReceiveStream, TextSendStream, TextStream, TypedAttributeProvider,
    UnreliableObjectReceiveStream, UnreliableObjectSendStream, memory_object_stream,
};
use proactor::{Busy, DelimiterNotFound, IncompleteRead, metrics, spawn, yield_now};
use std::pin::pin;
use std::time::Duration;

use crate::harness::{Cx, both_drivers, tcp_pair};
use crate::wrappers::{Script, is};

both_drivers!(
    exactly_so_many_bytes_come_however_they_were_sent,
    a_stream_that_ends_too_early_gives_what_there_was,
    a_delimiter_is_found_over_the_border_of_two_receives,
    a_delimiter_that_does_not_come_leaves_the_bytes_where_they_are,
    a_receive_that_is_cut_short_loses_nothing,
    a_second_receiver_of_a_buffer_is_told_that_it_is_busy,
    a_receive_past_the_buffer_copies_nothing,
    characters_are_decoded_over_the_borders_of_receives,
    what_is_no_text_is_an_error_or_replaced_or_left_out,
    text_is_sent_in_the_encoding_asked_for,
    a_text_stream_goes_both_ways,
    stapled_streams_are_one,
);

/// The data in the error, if it is of that type.
fn inner<E: std::error::Error + Clone + 'static>(error: io::Error) -> E {
    error.get_ref().and_then(|inner| inner.downcast_ref::<E>()).cloned().expect("another error")
}

fn exactly_so_many_bytes_come_however_they_were_sent(cx: Cx) {
    cx.run(async {
        let stream = BufferedByteReceiveStream::new(Script::new(["a", "bcd", "ef", "ghi"]));
        assert_eq!(stream.receive_exactly(0).await?, "");
        assert_eq!(stream.receive_exactly(2).await?, "ab");
        assert_eq!(stream.buffered(), 2);
        assert_eq!(stream.receive_exactly(5).await?, "cdefg");
        stream.feed_data(b"!");
        assert_eq!(&stream.receive_up_to(2).await?.expect("bytes")[..], b"hi");
        assert_eq!(&stream.receive().await?.expect("bytes")[..], b"!");
        assert!(stream.receive().await?.is_none());
        Ok::<_, io::Error>(())
    });
}

fn a_stream_that_ends_too_early_gives_what_there_was(cx: Cx) {
    cx.run(async {
        let stream = BufferedByteReceiveStream::new(Script::new(["ab", "c"]));
        let error = inner::<IncompleteRead>(stream.receive_exactly(5).await.expect_err("too few"));
        assert_eq!((&error.partial[..], error.expected), (&b"abc"[..], Some(5)));
        let error = inner::<IncompleteRead>(stream.receive_exactly(1).await.expect_err("none"));
        assert_eq!((&error.partial[..], error.expected), (&b""[..], Some(1)));
        let stream = BufferedByteReceiveStream::new(Script::new(["ab", "c"]));
        let error = inner::<IncompleteRead>(stream.receive_until("\n", 100).await.expect_err("no line"));
        assert_eq!((&error.partial[..], error.expected), (&b"abc"[..], None));
        Ok::<_, io::Error>(())
    });
}

fn a_delimiter_is_found_over_the_border_of_two_receives(cx: Cx) {
    cx.run(async {
        let stream =
            BufferedByteReceiveStream::new(Script::new(["one\r", "\ntw", "o\r", "\r\n\r\n", "rest"]));
        assert_eq!(stream.receive_until("\r\n", 100).await?, "one");
        assert_eq!(stream.receive_until("\r\n", 100).await?, "two\r");
        assert_eq!(stream.receive_until("\r\n", 100).await?, "");
        assert_eq!(stream.receive_until("e", 100).await?, "r");
        let (_, rest) = stream.into_parts();
        assert_eq!(rest, "st");
        Ok::<_, io::Error>(())
    });
}

fn a_delimiter_that_does_not_come_leaves_the_bytes_where_they_are(cx: Cx) {
    cx.run(async {
        let stream = BufferedByteReceiveStream::new(Script::new(["abc", "def", "g\n"]));
        let error = inner::<DelimiterNotFound>(stream.receive_until("\n", 6).await.expect_err("too far"));
        assert_eq!(error.max_bytes, 6);
        assert_eq!(stream.buffered(), 6);
        let refused = stream.receive_until("", 6).await.expect_err("no delimiter");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(stream.receive_until("\n", 7).await?, "abcdefg");
        Ok::<_, io::Error>(())
    });
}

fn a_receive_that_is_cut_short_loses_nothing(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let stream = BufferedByteStream::new(ours);
        theirs.send("abc").await?;
        // Cancelled by a scope, and dropped.
        let cut = move_on_after(Duration::from_millis(20), stream.receive_exactly(6)).await?;
        assert!(cut.is_none());
        theirs.send("d").await?;
        {
            let mut receive = pin!(stream.receive_until("\n", 100));
            while stream.buffered() < 4 {
                assert!(poll!(receive.as_mut()).is_pending());
                proactor::nop().await?;
                yield_now().await;
            }
        }
        theirs.send("ef\n").await?;
        assert_eq!(stream.receive_exactly(6).await?, "abcdef");
        assert_eq!(stream.receive_exactly(1).await?, "\n");
        stream.send("back").await?;
        stream.send_eof().await?;
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"back");
        stream.aclose().await?;
        Ok::<_, io::Error>(())
    });
}

fn a_second_receiver_of_a_buffer_is_told_that_it_is_busy(cx: Cx) {
    cx.run(async {
        let stream = BufferedByteReceiveStream::new(Script::new(["ab"]));
        let (first, second) = join!(stream.receive_exactly(2), stream.receive());
        assert_eq!(first?, "ab");
        assert!(is::<Busy>(&second.expect_err("busy")));
        assert!(stream.receive().await?.is_none(), "it is free again");
        Ok::<_, io::Error>(())
    });
}

fn a_receive_past_the_buffer_copies_nothing(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let stream = BufferedByteStream::new(ours);
        theirs.send(vec![1; 1000]).await?;
        let chunk = stream.receive().await?.expect("bytes");
        assert_eq!(metrics().buffers_in_use, 1, "the chunk is the kernel's buffer");
        drop(chunk);
        Ok::<_, io::Error>(())
    });
}

async fn all_text(bytes: &[u8], size: usize, options: TextOptions) -> io::Result<String> {
    let stream = TextReceiveStream::with(Script::new(bytes.chunks(size)), options);
    let mut all = String::new();
    while let Some(part) = stream.receive().await? {
        assert!(!part.is_empty());
        all += &part;
    }
    assert!(stream.receive().await?.is_none(), "the end stays the end");
    Ok(all)
}

fn characters_are_decoded_over_the_borders_of_receives(cx: Cx) {
    cx.run(async {
        let utf16: Vec<u8> = "aä€😀".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for size in 1..8 {
            assert_eq!(
                all_text("aä€😀\u{feff}z".as_bytes(), size, TextOptions::default()).await?,
                "aä€😀\u{feff}z"
            );
            let options = TextOptions::default().encoding("utf-16le")?;
            assert_eq!(all_text(&utf16, size, options).await?, "aä€😀");
            let options = TextOptions::default().encoding("shift_jis")?;
            assert_eq!(all_text(b"\x93\xfa\x96\x7b", size, options).await?, "日本");
        }
        let unknown = TextOptions::default().encoding("klingon").expect_err("no such encoding");
        assert_eq!(unknown.kind(), io::ErrorKind::InvalidInput);
        Ok::<_, io::Error>(())
    });
}

fn what_is_no_text_is_an_error_or_replaced_or_left_out(cx: Cx) {
    cx.run(async {
        for (bytes, replaced, ignored) in [
            (&b"a\xffb"[..], "a\u{fffd}b", "ab"),
            (b"ab\xe2\x82", "ab\u{fffd}", "ab"),
            (b"\xf0\x9f\x98x", "\u{fffd}x", "x"),
        ] {
            for size in 1..4 {
                let options = TextOptions::default();
                assert_eq!(all_text(bytes, size, options.errors(TextErrors::Replace)).await?, replaced);
                assert_eq!(all_text(bytes, size, options.errors(TextErrors::Ignore)).await?, ignored);
                let error = all_text(bytes, size, options).await.expect_err("no text");
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            }
        }
        let stream = TextReceiveStream::new(Script::new([&b"good\xffbad"[..], b"more"]));
        assert_eq!(stream.receive().await?.as_deref(), Some("good"), "what came before the error is text");
        assert!(stream.receive().await.is_err());
        assert!(stream.receive().await.is_err(), "it stays an error");
        Ok::<_, io::Error>(())
    });
}

fn text_is_sent_in_the_encoding_asked_for(cx: Cx) {
    async fn sent(text: &str, label: &str, errors: TextErrors) -> io::Result<Vec<u8>> {
        let options = TextOptions::default().encoding(label)?.errors(errors);
        let stream = TextSendStream::with(Script::default(), options);
        stream.send(text.to_owned()).await?;
        Ok(stream.get_ref().sent.take())
    }
    cx.run(async {
        assert_eq!(sent("ä😀", "utf-8", TextErrors::Strict).await?, "ä😀".as_bytes());
        assert_eq!(sent("ä", "utf-16be", TextErrors::Strict).await?, [0, 0xe4]);
        assert_eq!(sent("ä", "windows-1252", TextErrors::Strict).await?, [0xe4]);
        assert_eq!(sent("a😀b", "windows-1252", TextErrors::Replace).await?, b"a?b");
        assert_eq!(sent("a😀b", "windows-1252", TextErrors::Ignore).await?, b"ab");
        // An encoding with states: the question mark comes in that of ASCII.
        let japanese = sent("日😀本", "iso-2022-jp", TextErrors::Replace).await?;
        let options = TextOptions::default().encoding("iso-2022-jp")?;
        assert_eq!(all_text(&japanese, 100, options).await?, "日?本");
        let stream =
            TextSendStream::with(Script::default(), TextOptions::default().encoding("windows-1252")?);
        let unsent = stream.send("a😀".to_owned()).await.expect_err("no such character");
        assert_eq!((&unsent.item[..], unsent.error.kind()), ("a😀", io::ErrorKind::InvalidInput));
        assert!(stream.get_ref().sent.borrow().is_empty(), "nothing of it was sent");
        Ok::<_, io::Error>(())
    });
}

fn a_text_stream_goes_both_ways(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let port = ours.local_addr()?.port();
        let (ours, theirs) = (TextStream::new(ours), TextStream::new(theirs));
        let echo = spawn(async move {
            while let Some(text) = theirs.receive().await? {
                theirs.send(text).await?;
            }
            theirs.aclose().await
        });
        ours.send("smörgåsbord".to_owned()).await?;
        ours.send_eof().await?;
        let mut all = String::new();
        while let Some(text) = ours.receive().await? {
            all += &text;
        }
        assert_eq!(all, "smörgåsbord");
        assert_eq!(ours.extra(SocketAttribute::LOCAL_PORT), Ok(port), "through the wrapper");
        echo.await??;
        Ok::<_, io::Error>(())
    });
}

fn stapled_streams_are_one(cx: Cx) {
    cx.run(async {
        let ((ours, theirs), (other, peer)) = (tcp_pair().await?, tcp_pair().await?);
        let ports = (ours.extra(SocketAttribute::LOCAL_PORT), other.extra(SocketAttribute::LOCAL_PORT));
        let one: StapledByteStream<TcpStream, TcpStream> = StapledByteStream::new(ours, other);
        assert_eq!(one.extra(SocketAttribute::LOCAL_PORT), ports.1, "of the one that receives");
        assert_ne!(ports.0, ports.1);
        one.send("out").await?;
        peer.send("in").await?;
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"out");
        assert_eq!(&one.receive().await?.expect("bytes")[..], b"in");
        one.send_eof().await?;
        assert!(theirs.receive().await?.is_none());
        one.aclose().await?;
        assert!(peer.receive().await?.is_none());

        let (to_right, from_left) = memory_object_stream(1);
        let (to_left, from_right) = memory_object_stream(1);
        let left = StapledObjectStream::new(to_right, from_right);
        let right = StapledObjectStream::new(to_left, from_left);
        left.send(1).await?;
        right.send(2).await?;
        assert_eq!((left.receive().await?, right.receive().await?), (Some(2), Some(1)));
        left.send_eof().await?;
        assert_eq!(right.receive().await?, None);
        right.aclose().await?;
        assert_eq!(left.receive().await?, None);
        Ok::<_, io::Error>(())
    });
}
