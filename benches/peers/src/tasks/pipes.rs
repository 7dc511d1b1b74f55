//! Messages through a pipe to another task of the same loop, and back through a second pipe.
//!
//! monoio's pipes can be made, but neither read nor written; glommio has none.

use super::runtime::Runtime;
use crate::measure::{Clock, Cost};
use crate::peers::{Compio, Smol, Tokio};
use crate::tasks::ours::Driver;
use futures_lite::{AsyncReadExt, AsyncWriteExt};

pub(crate) trait Pipe: Runtime {
    type Reader: 'static;
    type Writer: 'static;

    fn pipe() -> impl Future<Output = (Self::Reader, Self::Writer)>;

    /// Writes all of the buffer and gives it back.
    fn write(writer: &mut Self::Writer, buffer: Vec<u8>) -> impl Future<Output = Vec<u8>>;

    /// Reads a message, as long as the buffer, which is given back full.
    fn read(reader: &mut Self::Reader, buffer: Vec<u8>) -> impl Future<Output = Vec<u8>>;
}

/// Per message there and back: two writes and two reads.
pub(crate) async fn pipes<R: Pipe>(bytes: usize, operations: u64) -> Cost {
    let (mut here, mut to_there) = R::pipe().await;
    let (mut there, mut to_here) = R::pipe().await;
    let clock = Clock::start();
    let other = R::spawn(async move {
        let mut buffer = vec![0; bytes];
        for _ in 0..operations {
            buffer = R::read(&mut here, buffer).await;
            buffer = R::write(&mut to_here, buffer).await;
        }
    });
    let mut buffer = vec![0x5a; bytes];
    for _ in 0..operations {
        buffer = R::write(&mut to_there, buffer).await;
        buffer = R::read(&mut there, buffer).await;
        assert_eq!(buffer.len(), bytes);
    }
    other.await;
    clock.cost(operations)
}

impl<D: Driver> Pipe for D {
    type Reader = proactor::net::PipeReader;
    type Writer = proactor::net::PipeWriter;

    async fn pipe() -> (Self::Reader, Self::Writer) {
        proactor::net::pipe().await.expect("descriptors are left")
    }

    async fn write(writer: &mut Self::Writer, buffer: Vec<u8>) -> Vec<u8> {
        writer.send(buffer).await.expect("somebody reads")
    }

    async fn read(reader: &mut Self::Reader, buffer: Vec<u8>) -> Vec<u8> {
        reader.receive_into(buffer).await.expect("somebody writes").1
    }
}

impl Pipe for Tokio {
    type Reader = tokio::net::unix::pipe::Receiver;
    type Writer = tokio::net::unix::pipe::Sender;

    async fn pipe() -> (Self::Reader, Self::Writer) {
        let (writer, reader) = tokio::net::unix::pipe::pipe().expect("descriptors are left");
        (reader, writer)
    }

    async fn write(writer: &mut Self::Writer, buffer: Vec<u8>) -> Vec<u8> {
        tokio::io::AsyncWriteExt::write_all(writer, &buffer).await.expect("somebody reads");
        buffer
    }

    async fn read(reader: &mut Self::Reader, mut buffer: Vec<u8>) -> Vec<u8> {
        let n = tokio::io::AsyncReadExt::read(reader, &mut buffer).await.expect("somebody writes");
        buffer.truncate(n);
        buffer
    }
}

impl Pipe for Smol {
    type Reader = async_io::Async<std::io::PipeReader>;
    type Writer = async_io::Async<std::io::PipeWriter>;

    async fn pipe() -> (Self::Reader, Self::Writer) {
        let (reader, writer) = std::io::pipe().expect("descriptors are left");
        let taken = (async_io::Async::new(reader), async_io::Async::new(writer));
        (taken.0.expect("the reactor takes it"), taken.1.expect("the reactor takes it"))
    }

    async fn write(writer: &mut Self::Writer, buffer: Vec<u8>) -> Vec<u8> {
        writer.write_all(&buffer).await.expect("somebody reads");
        buffer
    }

    async fn read(reader: &mut Self::Reader, mut buffer: Vec<u8>) -> Vec<u8> {
        let n = reader.read(&mut buffer).await.expect("somebody writes");
        buffer.truncate(n);
        buffer
    }
}

impl Pipe for Compio {
    type Reader = compio::fs::pipe::Receiver;
    type Writer = compio::fs::pipe::Sender;

    async fn pipe() -> (Self::Reader, Self::Writer) {
        compio::fs::pipe::anonymous().await.expect("descriptors are left")
    }

    async fn write(writer: &mut Self::Writer, buffer: Vec<u8>) -> Vec<u8> {
        let compio::buf::BufResult(written, buffer) =
            compio::io::AsyncWriteExt::write_all(writer, buffer).await;
        written.expect("somebody reads");
        buffer
    }

    async fn read(reader: &mut Self::Reader, buffer: Vec<u8>) -> Vec<u8> {
        let compio::buf::BufResult(read, buffer) = compio::io::AsyncRead::read(reader, buffer).await;
        read.expect("somebody writes");
        buffer
    }
}
