//! tokio's servers: a buffer for each connection, files by sendfile(2) when the socket is writable.

use super::Serve;
use crate::peers::Tokio;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener};
use tokio::task::spawn_local;

const BUFFER: usize = 16 << 10;

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n]).await?,
        }
    }
}

async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    while stream.read(&mut buffer).await? > 0 {}
    stream.write_all(b"e").await
}

async fn files(mut stream: TcpStream, file: Rc<File>) -> io::Result<()> {
    loop {
        let bytes = stream.read_u64_le().await?;
        let mut offset = 0;
        while offset < bytes {
            let left = bytes - offset;
            let n =
                stream.async_io(Interest::WRITABLE, || super::child::send_file(&stream, &file, offset, left));
            offset += n.await?;
        }
    }
}

fn listener(listener: std::net::TcpListener) -> TcpListener {
    listener.set_nonblocking(true).expect("a socket can be non-blocking");
    TcpListener::from_std(listener).expect("the reactor takes it")
}

impl Serve for Tokio {
    async fn echo(from: std::net::TcpListener) {
        let listener = listener(from);
        loop {
            spawn_local(echo(listener.accept().await.expect("it listens").0));
        }
    }

    async fn echo_unix(path: PathBuf) {
        let listener = UnixListener::bind(path).expect("the path is free");
        loop {
            spawn_local(echo(listener.accept().await.expect("it listens").0));
        }
    }

    async fn sink(from: std::net::TcpListener) {
        let listener = listener(from);
        loop {
            spawn_local(sink(listener.accept().await.expect("it listens").0));
        }
    }

    async fn files(from: std::net::TcpListener, file: PathBuf) {
        let listener = listener(from);
        let file = Rc::new(File::open(file).expect("the file is there"));
        loop {
            spawn_local(files(listener.accept().await.expect("it listens").0, file.clone()));
        }
    }

    async fn echo_udp(socket: std::net::UdpSocket) {
        socket.set_nonblocking(true).expect("a socket can be non-blocking");
        let socket = UdpSocket::from_std(socket).expect("the reactor takes it");
        let mut buffer = vec![0; BUFFER];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).await.expect("it receives");
            socket.send_to(&buffer[..n], from).await.expect("it sends");
        }
    }
}
