//! compio's servers: echoes from the runtime's own buffers by multishot receive; files are read and written.

use super::Serve;
use crate::peers::Compio;
use compio::buf::{BufResult, IntoInner, IoBuf};
use compio::fs::File;
use compio::io::{AsyncRead, AsyncReadAt, AsyncReadExt, AsyncReadMulti, AsyncWriteExt};
use compio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use compio::runtime::spawn;
use futures_util::StreamExt;
use std::io;
use std::path::PathBuf;
use std::pin::pin;

const BUFFER: usize = 16 << 10;
const FILE_BUFFER: usize = 128 << 10;

async fn echo(stream: TcpStream) -> io::Result<()> {
    let (mut reader, mut writer) = (&stream, &stream);
    let mut chunks = pin!(reader.read_multi(0));
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        if chunk.is_empty() {
            break;
        }
        writer.write_all(chunk).await.0?;
    }
    Ok(())
}

async fn echo_unix(stream: UnixStream) -> io::Result<()> {
    let (mut reader, mut writer) = (&stream, &stream);
    let mut chunks = pin!(reader.read_multi(0));
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        if chunk.is_empty() {
            break;
        }
        writer.write_all(chunk).await.0?;
    }
    Ok(())
}

async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(256 << 10);
    loop {
        let BufResult(read, filled) = stream.read(buffer).await;
        if read? == 0 {
            return stream.write_all("e").await.0;
        }
        buffer = filled;
        buffer.clear();
    }
}

async fn files(mut stream: TcpStream, file: File) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(FILE_BUFFER);
    loop {
        let BufResult(read, request) = stream.read_exact([0; 8]).await;
        read?;
        let (mut offset, bytes) = (0, u64::from_le_bytes(request));
        while offset < bytes {
            let BufResult(read, filled) = file.read_at(buffer, offset).await;
            let n = (read? as u64).min(bytes - offset);
            let BufResult(written, emptied) = stream.write_all(filled.slice(..n as usize)).await;
            written?;
            offset += n;
            buffer = emptied.into_inner();
            buffer.clear();
        }
    }
}

impl Serve for Compio {
    async fn echo(from: std::net::TcpListener) {
        let listener = TcpListener::from_std(from).expect("the driver takes it");
        loop {
            spawn(echo(listener.accept().await.expect("it listens").0)).detach();
        }
    }

    async fn echo_unix(path: PathBuf) {
        let listener = UnixListener::bind(path).await.expect("the path is free");
        loop {
            spawn(echo_unix(listener.accept().await.expect("it listens").0)).detach();
        }
    }

    async fn sink(from: std::net::TcpListener) {
        let listener = TcpListener::from_std(from).expect("the driver takes it");
        loop {
            spawn(sink(listener.accept().await.expect("it listens").0)).detach();
        }
    }

    async fn files(from: std::net::TcpListener, file: PathBuf) {
        let listener = TcpListener::from_std(from).expect("the driver takes it");
        let file = File::open(file).await.expect("the file is there");
        loop {
            spawn(files(listener.accept().await.expect("it listens").0, file.clone())).detach();
        }
    }

    async fn echo_udp(socket: std::net::UdpSocket) {
        let socket = UdpSocket::from_std(socket).expect("the driver takes it");
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            let BufResult(received, filled) = socket.recv_from(buffer).await;
            let (_, from) = received.expect("it receives");
            let BufResult(sent, emptied) = socket.send_to(filled, from).await;
            sent.expect("it sends");
            buffer = emptied;
            buffer.clear();
        }
    }
}
