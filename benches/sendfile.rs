//! What does it cost to serve a file?
//!
//! `sendfile::tcp`: CPU time of the server (user and system, its pool and the kernel's ring workers included) per file
//! of 16 KiB, 1 MiB and 100 MiB that is cached, over 8 connections that read as fast as they can. `raw` is READ + SEND
//! on a bare ring, `splice` SPLICE + SPLICE there, `sendfile` sendfile(2) on a bare epoll set: the floor.
mod common;
mod raw;

use common::Group;
use criterion::SamplingMode;
use proactor::fs::File;
use proactor::net::TcpStream;
use proactor::{DriverChoice, spawn};
use raw::files::{Client, Idiom, serve};
use raw::os;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread::JoinHandle;

const CONNECTIONS: usize = 8;
const SIZES: [usize; 3] = [16 << 10, 1 << 20, 100 << 20];
const FLOOR: &str = "sendfile";

fn main() {
    let mut criterion = common::start("sendfile: what does it cost to serve a file?");
    os::pin(true);
    let path = std::env::temp_dir().join(format!("proactor-bench-{}-file", std::process::id()));
    let longest = SIZES.iter().copied().max().unwrap_or_default();
    fs::write(&path, vec![0x5a; longest]).expect("room for temporary files");
    let mut group = Group::beside(&mut criterion, "sendfile::tcp", FLOOR);
    group.sampling(SamplingMode::Flat);
    for size in SIZES {
        for name in [FLOOR, "raw", "splice", "io_uring", "inline", "epoll"] {
            let (theirs, ours) = (0..CONNECTIONS).map(|_| pair().expect("a connection")).unzip();
            let file = fs::File::open(&path).expect("the file");
            let Some(server) = start(name, theirs, file) else { continue };
            let mut client = Client::new(ours, size);
            group.case(name, size, |count| {
                os::others_cpu(|| client.run(count).expect("every file comes whole"))
            });
            drop(client);
            server.join().expect("the server does not panic").expect("the server serves");
        }
    }
    group.finish();
    criterion.final_summary();
    let _ = fs::remove_file(&path);
}

/// Two ends of a TCP connection. Reno: some systems default to BBR, which paces what it sends even on loopback.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let socket = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        let _ = socket.set_tcp_congestion(b"reno");
        socket.set_tcp_nodelay(true)?;
        Ok::<_, io::Error>(socket)
    };
    let (listener, client) = (socket()?, socket()?);
    listener.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
    listener.listen(1)?;
    client.connect(&listener.local_addr()?)?;
    Ok((listener.accept()?.0.into(), client.into()))
}

/// The named server on the first CPU, none where it cannot run.
fn start(name: &str, sockets: Vec<OwnedFd>, file: fs::File) -> Option<JoinHandle<io::Result<()>>> {
    let idiom = match name {
        FLOOR => Some(Idiom::Sendfile),
        "raw" => Some(Idiom::Read),
        "splice" => Some(Idiom::Splice),
        _ => None,
    };
    let choice = if name == "epoll" { DriverChoice::Epoll } else { DriverChoice::IoUring };
    let possible = match idiom {
        Some(Idiom::Sendfile) => true,
        Some(_) => raw::Ring::new(8).is_ok(),
        None => common::event_loop(choice).is_ok(),
    };
    let inline = name == "inline";
    let body = move || {
        os::pin(false);
        match idiom {
            Some(idiom) => serve(idiom, sockets, &file.into()),
            None => ours(choice, inline, sockets, file),
        }
    };
    possible.then(|| std::thread::spawn(body))
}

fn ours(choice: DriverChoice, inline: bool, sockets: Vec<OwnedFd>, file: fs::File) -> io::Result<()> {
    common::event_loop(choice)?.run_until_complete(async {
        let file = Rc::new(File::from_std(file));
        let mut tasks = Vec::new();
        for socket in sockets {
            let stream = TcpStream::from_std(socket.into())?;
            tasks.push(spawn(answer_all(stream, file.clone(), inline)));
        }
        for task in tasks {
            task.await??;
        }
        Ok(())
    })?
}

async fn answer_all(stream: TcpStream, file: Rc<File>, inline: bool) -> io::Result<()> {
    while let Some(request) = stream.receive().await? {
        let count = u64::from_le_bytes(request[..].try_into().map_err(io::Error::other)?);
        stream.send_file(&*file).count(count).inline(inline).await?;
    }
    Ok(())
}
