//! Our servers, on each driver.

use super::Serve;
use crate::tasks::ours::Driver;
use proactor::fs::File;
use proactor::net::{Family, Stream, TcpListener, TcpStream, UdpSocket, UnixListener};
use std::io;
use std::path::PathBuf;

async fn echo<F: Family>(stream: Stream<F>) -> io::Result<()> {
    while let Some(chunk) = stream.receive().await? {
        stream.send(chunk).await?;
    }
    Ok(())
}

async fn sink(stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(256 << 10);
    loop {
        let (n, filled) = stream.receive_into(buffer).await?;
        if n == 0 {
            break;
        }
        buffer = filled;
        buffer.clear();
    }
    stream.send("e").await?;
    stream.close().await
}

async fn files(stream: TcpStream, file: &File, inline: bool) -> io::Result<()> {
    while let Some(request) = stream.receive().await? {
        let bytes = u64::from_le_bytes(request[..].try_into().expect("a request comes whole"));
        stream.send_file(file).count(bytes).inline(inline).await?;
    }
    Ok(())
}

fn listener(listener: std::net::TcpListener) -> TcpListener {
    TcpListener::from_std(listener).expect("the driver takes it")
}

impl<D: Driver> Serve for D {
    async fn echo(from: std::net::TcpListener) {
        listener(from).serve(echo).until_cancelled().await.expect("it listens");
    }

    async fn echo_unix(path: PathBuf) {
        let listener = UnixListener::bind(path).await.expect("the path is free");
        listener.serve(echo).until_cancelled().await.expect("it listens");
    }

    async fn echo_udp(socket: std::net::UdpSocket) {
        const QUEUED_MAX: usize = 1 << 20;
        let socket = UdpSocket::from_std(socket).expect("the driver takes it");
        loop {
            let (bytes, from) = socket.receive_from().await.expect("it receives");
            if socket.write_to(bytes, from).expect("it is open") > QUEUED_MAX {
                socket.flush().await.expect("it sends");
            }
        }
    }

    async fn sink(from: std::net::TcpListener) {
        listener(from).serve(sink).until_cancelled().await.expect("it listens");
    }

    async fn files(from: std::net::TcpListener, file: PathBuf) {
        let file = File::open(file).await.expect("the file is there");
        // The handler lives as long as the loop, and the server with it.
        let file: &File = Box::leak(Box::new(file));
        let handler = async move |stream| files(stream, file, D::INLINE).await;
        listener(from).serve(handler).until_cancelled().await.expect("it listens");
    }
}
