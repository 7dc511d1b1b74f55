//! What do transports and protocols, and the streams on them, cost over the plain streams?
//!
//! `echo::faces`: CPU time of the server per message of 64 bytes over TCP, as in `echo`: with `TcpStream` (the floor, on
//! the same driver), with a protocol, with a StreamReader and a StreamWriter; beside them the same on tokio, and with
//! uvloop and asyncio where they are installed (`pip install uvloop`).
mod common;
mod raw;
mod servers;

use common::Group;
use criterion::Criterion;
use raw::{client, os};
use servers::Server;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const OURS: [&str; 6] =
    ["io_uring", "protocol/io_uring", "stream/io_uring", "epoll", "protocol/epoll", "stream/epoll"];
const PYTHON: [(&str, [&str; 2]); 4] = [
    ("protocol/uvloop", ["uvloop", "protocol"]),
    ("stream/uvloop", ["uvloop", "stream"]),
    ("protocol/asyncio", ["asyncio", "protocol"]),
    ("stream/asyncio", ["asyncio", "stream"]),
];

fn main() {
    let mut criterion = common::start("transport: what does the callback face cost over the plain streams?");
    if raw::Ring::new(8).is_err() {
        println!("SKIP transport: the client needs io_uring");
        return;
    }
    os::pin(true);
    os::raise_descriptor_limit();
    measure(&mut criterion, 50);
    criterion.final_summary();
}

fn measure(criterion: &mut Criterion, size: usize) {
    let mut group = Group::beside(criterion, "echo::faces", "io_uring");
    for name in OURS.into_iter().chain(["tokio"]) {
        let Some(server) = Server::tcp(name) else { continue };
        let connections = (0..size).map(|_| server.connect()).collect::<Result<_, _>>();
        let mut client =
            client::Echo::new(connections.expect("the server accepts")).expect("the client starts");
        group.case(name, size, |count| {
            os::others_cpu(|| client.run(count).expect("every message comes back"))
        });
    }
    for (name, arguments) in PYTHON {
        let Some(server) = Python::start(arguments) else {
            println!("SKIP {name}: it is not installed");
            continue;
        };
        let connections = (0..size).map(|_| server.connect()).collect();
        let mut client = client::Echo::new(connections).expect("the client starts");
        group.case(name, size, |count| {
            let before = server.cpu();
            client.run(count).expect("every message comes back");
            server.cpu().saturating_sub(before)
        });
    }
    group.finish();
}

/// A server in a process of its own.
struct Python {
    child: Child,
    port: u16,
}

impl Python {
    fn start(arguments: [&str; 2]) -> Option<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/echo_peer.py");
        let mut command = Command::new("python3");
        command
            .arg(script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let mut line = String::new();
        let _ = BufReader::new(child.stdout.take()?).read_line(&mut line);
        let port = line.trim().parse().unwrap_or(0);
        let server = Self { child, port };
        (port != 0).then_some(server)
    }

    fn connect(&self) -> OwnedFd {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let _ = socket.set_tcp_congestion(b"reno");
        socket.set_tcp_nodelay(true).expect("an option");
        socket
            .connect(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port).into())
            .expect("the server accepts");
        socket.into()
    }

    /// CPU time of its only thread, up to its last switch: it is asleep when this is asked.
    fn cpu(&self) -> Duration {
        std::thread::sleep(Duration::from_micros(300));
        let path = format!("/proc/{}/schedstat", self.child.id());
        let text = fs::read_to_string(path).unwrap_or_default();
        Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // it sees the end of its input
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
