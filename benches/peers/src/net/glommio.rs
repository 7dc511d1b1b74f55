//! glommio's servers: a buffer for each connection; files are read and written.

use super::Serve;
use crate::peers::Glommio;
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use glommio::io::BufferedFile;
use glommio::net::{TcpListener, TcpStream, UdpSocket, UnixListener};
use glommio::spawn_local;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::path::PathBuf;
use std::rc::Rc;

const BUFFER: usize = 16 << 10;
const FILE_BUFFER: usize = 128 << 10;

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

async fn files(mut stream: TcpStream, file: Rc<BufferedFile>) -> io::Result<()> {
    let mut request = [0; 8];
    loop {
        stream.read_exact(&mut request).await?;
        let (mut offset, bytes) = (0, u64::from_le_bytes(request));
        while offset < bytes {
            let chunk = file.read_at(offset, FILE_BUFFER.min((bytes - offset) as usize)).await?;
            stream.write_all(&chunk).await?;
            offset += chunk.len() as u64;
        }
    }
}

fn listener(from: std::net::TcpListener) -> TcpListener {
    // SAFETY: the descriptor was just given up by its owner.
    unsafe { TcpListener::from_raw_fd(from.into_raw_fd()) }
}

impl Serve for Glommio {
    async fn echo(from: std::net::TcpListener) {
        let listener = listener(from);
        loop {
            spawn_local(echo(listener.accept().await.expect("it listens"))).detach();
        }
    }

    async fn echo_unix(path: PathBuf) {
        let listener = UnixListener::bind(path).expect("the path is free");
        loop {
            spawn_local(echo(listener.accept().await.expect("it listens"))).detach();
        }
    }

    async fn sink(from: std::net::TcpListener) {
        let listener = listener(from);
        loop {
            spawn_local(sink(listener.accept().await.expect("it listens"))).detach();
        }
    }

    async fn files(from: std::net::TcpListener, file: PathBuf) {
        let listener = listener(from);
        let file = Rc::new(BufferedFile::open(file).await.expect("the file is there"));
        loop {
            spawn_local(files(listener.accept().await.expect("it listens"), file.clone())).detach();
        }
    }

    async fn echo_udp(socket: std::net::UdpSocket) {
        // SAFETY: the descriptor was just given up by its owner.
        let socket = unsafe { UdpSocket::from_raw_fd(socket.into_raw_fd()) };
        let mut buffer = vec![0; BUFFER];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).await.expect("it receives");
            socket.send_to(&buffer[..n], from).await.expect("it sends");
        }
    }
}
