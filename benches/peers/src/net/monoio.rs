//! monoio's servers: one buffer for each connection goes into the kernel and back; files are read and written.

use super::Serve;
use crate::peers::Monoio;
use monoio::fs::File;
use monoio::io::{AsyncReadRent, AsyncReadRentExt, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::udp::UdpSocket;
use monoio::net::{TcpListener, TcpStream, UnixListener};
use monoio::spawn;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

const BUFFER: usize = 16 << 10;
const FILE_BUFFER: usize = 128 << 10;

async fn echo(mut stream: impl AsyncReadRent + AsyncWriteRent) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        let (read, filled) = stream.read(buffer).await;
        if read? == 0 {
            return Ok(());
        }
        let (written, emptied) = stream.write_all(filled).await;
        written?;
        buffer = emptied;
    }
}

async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(256 << 10);
    loop {
        let (read, filled) = stream.read(buffer).await;
        if read? == 0 {
            return stream.write_all(b"e").await.0.map(drop);
        }
        buffer = filled;
    }
}

async fn files(mut stream: TcpStream, file: Rc<File>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(FILE_BUFFER);
    loop {
        let (read, request) = stream.read_exact(vec![0; 8]).await;
        read?;
        let (mut offset, bytes) = (0, u64::from_le_bytes(request[..].try_into().expect("eight bytes")));
        while offset < bytes {
            let (read, mut filled) = file.read_at(buffer, offset).await;
            let n = (read? as u64).min(bytes - offset);
            filled.truncate(n as usize);
            let (written, emptied) = stream.write_all(filled).await;
            written?;
            offset += n;
            buffer = emptied;
        }
    }
}

impl Serve for Monoio {
    async fn echo(from: std::net::TcpListener) {
        let listener = TcpListener::from_std(from).expect("the driver takes it");
        loop {
            spawn(echo(listener.accept().await.expect("it listens").0));
        }
    }

    async fn echo_unix(path: PathBuf) {
        // Its own `bind` asks for SO_REUSEPORT, which the kernel refuses for this family.
        let listener = std::os::unix::net::UnixListener::bind(path).expect("the path is free");
        let listener = UnixListener::from_std(listener).expect("the driver takes it");
        loop {
            spawn(echo(listener.accept().await.expect("it listens").0));
        }
    }

    async fn sink(from: std::net::TcpListener) {
        let listener = TcpListener::from_std(from).expect("the driver takes it");
        loop {
            spawn(sink(listener.accept().await.expect("it listens").0));
        }
    }

    async fn files(from: std::net::TcpListener, file: PathBuf) {
        let listener = TcpListener::from_std(from).expect("the driver takes it");
        let file = Rc::new(File::open(file).await.expect("the file is there"));
        loop {
            spawn(files(listener.accept().await.expect("it listens").0, file.clone()));
        }
    }

    async fn echo_udp(socket: std::net::UdpSocket) {
        let socket = UdpSocket::from_std(socket).expect("the driver takes it");
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            let (received, filled) = socket.recv_from(buffer).await;
            let (_, from) = received.expect("it receives");
            let (sent, emptied) = socket.send_to(filled, from).await;
            sent.expect("it sends");
            buffer = emptied;
        }
    }
}
