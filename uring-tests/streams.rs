//! Streams and listeners, as their users see them.

use crate::harness::{Cx, both_drivers};
use proactor::net::{TcpListener, TcpStream};
use std::io;

both_drivers!(a_listener_and_a_stream_echo);

fn a_listener_and_a_stream_echo(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = TcpStream::connect(listener.local_addr()?).await?;
        let server = listener.accept().await?;
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
