//! smol's servers: as those of tokio.

use super::Serve;
use crate::peers::Smol;
use crate::tasks::smol::spawn;
use async_io::Async;
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;

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

async fn sink(mut stream: Async<TcpStream>) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    while stream.read(&mut buffer).await? > 0 {}
    stream.write_all(b"e").await
}

async fn files(mut stream: Async<TcpStream>, file: Rc<File>) -> io::Result<()> {
    loop {
        let mut request = [0; 8];
        stream.read_exact(&mut request).await?;
        let (mut offset, bytes) = (0, u64::from_le_bytes(request));
        while offset < bytes {
            let left = bytes - offset;
            offset +=
                stream.write_with(|stream| super::child::send_file(stream, &file, offset, left)).await?;
        }
    }
}

fn listener(listener: TcpListener) -> Async<TcpListener> {
    Async::new(listener).expect("the reactor takes it")
}

impl Serve for Smol {
    async fn echo(from: TcpListener) {
        let listener = listener(from);
        loop {
            spawn(echo(listener.accept().await.expect("it listens").0)).detach();
        }
    }

    async fn echo_unix(path: PathBuf) {
        let listener = Async::<UnixListener>::bind(path).expect("the path is free");
        loop {
            spawn(echo(listener.accept().await.expect("it listens").0)).detach();
        }
    }

    async fn sink(from: TcpListener) {
        let listener = listener(from);
        loop {
            spawn(sink(listener.accept().await.expect("it listens").0)).detach();
        }
    }

    async fn files(from: TcpListener, file: PathBuf) {
        let listener = listener(from);
        let file = Rc::new(File::open(file).expect("the file is there"));
        loop {
            spawn(files(listener.accept().await.expect("it listens").0, file.clone())).detach();
        }
    }

    async fn echo_udp(socket: UdpSocket) {
        let socket = Async::new(socket).expect("the reactor takes it");
        let mut buffer = vec![0; BUFFER];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).await.expect("it receives");
            socket.send_to(&buffer[..n], from).await.expect("it sends");
        }
    }
}
