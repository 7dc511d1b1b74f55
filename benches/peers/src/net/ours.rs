//! Our servers, on each driver.

use super::Serve;
use crate::tasks::ours::Driver;
use proactor::net::{Family, Stream, TcpListener, TcpStream, UnixListener};
use std::fs::File;
use std::io;
use std::path::PathBuf;

async fn echo<F: Family>(stream: Stream<F>) -> io::Result<()> {
    while let Some(chunk) = stream.receive().await? {
        stream.send(chunk).await?;
    }
    Ok(())
}

async fn sink(stream: TcpStream) -> io::Result<()> {
    while stream.receive().await?.is_some() {}
    stream.send("e").await?;
    stream.close().await
}

async fn files(stream: TcpStream, file: File) -> io::Result<()> {
    while let Some(request) = stream.receive().await? {
        let bytes = u64::from_le_bytes(request[..].try_into().expect("a request comes whole"));
        stream.send_file(&file).count(bytes).await?;
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

    async fn sink(from: std::net::TcpListener) {
        listener(from).serve(sink).until_cancelled().await.expect("it listens");
    }

    async fn files(from: std::net::TcpListener, file: PathBuf) {
        let file = File::open(file).expect("the file is there");
        let handler = async move |stream| files(stream, file.try_clone()?).await;
        listener(from).serve(handler).until_cancelled().await.expect("it listens");
    }
}
