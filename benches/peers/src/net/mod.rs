//! What a server costs: it runs in a process of its own, and only that one's CPU time is counted.
//!
//! Every server meets the same client, on another CPU: the bare ring of `benches/raw` for echoes and short connections,
//! blocking threads for bulk and files.

mod child;
mod client;
mod compio;
mod glommio;
mod monoio;
mod ours;
mod raw_epoll;
mod raw_ring;
mod smol;
mod tokio;

use crate::measure::{Case, pin};
use crate::peers::{Compio, Epoll, Glommio, Inline, Monoio, Ring, Smol, Tokio};
use crate::raw;
use crate::tasks::runtime::Runtime;
use child::Child;
pub(crate) use child::file;
use client::Load;
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;

/// What a peer's server has to do, in its own best way. None of these ends.
pub(crate) trait Serve: Runtime {
    /// Sends back what comes.
    fn echo(listener: TcpListener) -> impl Future<Output = ()>;

    /// The same on a UNIX socket, which it makes.
    fn echo_unix(path: PathBuf) -> impl Future<Output = ()>;

    /// Sends each datagram back.
    fn echo_udp(socket: UdpSocket) -> impl Future<Output = ()>;

    /// Discards what comes, and at its end sends one byte.
    fn sink(listener: TcpListener) -> impl Future<Output = ()>;

    /// For each request, a number of bytes in eight little-endian bytes, sends so much of the file.
    fn files(listener: TcpListener, file: PathBuf) -> impl Future<Output = ()>;
}

/// `raw` and `raw-epoll` are servers written by hand, for one purpose each.
const NAMES: [&str; 10] =
    ["raw", "raw-epoll", "ours", "ours-epoll", "ours-inline", "tokio", "smol", "monoio", "compio", "glommio"];

/// The connections of a case, and what goes over them.
#[derive(Clone, Copy)]
pub(crate) enum Scenario {
    Echo { connections: usize, bytes: usize },
    Unix { connections: usize, bytes: usize },
    Udp { sockets: usize, bytes: usize },
    Churn { at_a_time: usize },
    Bulk { connections: usize, bytes: usize },
    Files { connections: usize, bytes: u64 },
}

impl Scenario {
    /// What its server is asked for.
    fn kind(self) -> &'static str {
        match self {
            Self::Echo { .. } | Self::Churn { .. } => "echo",
            Self::Unix { .. } => "unix",
            Self::Udp { .. } => "udp",
            Self::Bulk { .. } => "sink",
            Self::Files { .. } => "files",
        }
    }

    fn size(self) -> (usize, usize) {
        match self {
            Self::Echo { connections, bytes }
            | Self::Unix { connections, bytes }
            | Self::Udp { sockets: connections, bytes }
            | Self::Bulk { connections, bytes } => (connections, bytes),
            Self::Churn { at_a_time } => (at_a_time, raw::client::MESSAGE),
            Self::Files { connections, bytes } => (connections, bytes as usize),
        }
    }

    fn is_for(self, peer: &str) -> bool {
        matches!(self, Self::Files { .. }) || peer != "ours-inline"
    }
}

const SCENARIOS: [(&str, Scenario); 16] = [
    ("echo 64 B, connections 1", Scenario::Echo { connections: 1, bytes: 64 }),
    ("echo 64 B, connections 50", Scenario::Echo { connections: 50, bytes: 64 }),
    ("echo 64 B, connections 1000", Scenario::Echo { connections: 1000, bytes: 64 }),
    ("echo 4 KiB, connections 1", Scenario::Echo { connections: 1, bytes: 4096 }),
    ("echo 4 KiB, connections 50", Scenario::Echo { connections: 50, bytes: 4096 }),
    ("echo 4 KiB, connections 1000", Scenario::Echo { connections: 1000, bytes: 4096 }),
    ("UNIX echo 64 B, connections 1", Scenario::Unix { connections: 1, bytes: 64 }),
    ("UNIX echo 64 B, connections 50", Scenario::Unix { connections: 50, bytes: 64 }),
    ("UNIX echo 64 B, connections 1000", Scenario::Unix { connections: 1000, bytes: 64 }),
    ("UDP echo 64 B, sockets 1", Scenario::Udp { sockets: 1, bytes: 64 }),
    ("UDP echo 64 B, sockets 50", Scenario::Udp { sockets: 50, bytes: 64 }),
    ("churn: connect, 64 B echo, close, 50 at a time", Scenario::Churn { at_a_time: 50 }),
    ("bulk receive, each 64 KiB, connections 4", Scenario::Bulk { connections: 4, bytes: 64 << 10 }),
    ("file 16 KiB, connections 8", Scenario::Files { connections: 8, bytes: 16 << 10 }),
    ("file 1 MiB, connections 8", Scenario::Files { connections: 8, bytes: 1 << 20 }),
    ("file 100 MiB, connections 2", Scenario::Files { connections: 2, bytes: 100 << 20 }),
];

/// All rows of this part. Servers start when they are measured first, and end with their case.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (row, scenario) in SCENARIOS {
        for peer in NAMES.into_iter().filter(|peer| scenario.is_for(peer)) {
            let running: RefCell<Option<(Child, Load)>> = RefCell::new(None);
            let run = move |operations| {
                let mut running = running.borrow_mut();
                let (child, load) = running.get_or_insert_with(|| {
                    let start = || {
                        let child = Child::start(peer, scenario)?;
                        let load = Load::new(scenario, &child.address)?;
                        Ok::<_, io::Error>((child, load))
                    };
                    start().unwrap_or_else(|error| panic!("the server of {peer} for {row}: {error}"))
                });
                let mut run = || load.run(operations);
                child.cost_of(|| {
                    run().unwrap_or_else(|error| panic!("the server of {peer} for {row}: {error}"))
                })
            };
            cases.push(Case { row: row.into(), peer, run: Box::new(run) });
        }
    }
    cases
}

/// Resident memory for each of so many idle connections, by peer, in bytes; an error where the peer drops some.
pub(crate) fn idle_memory(
    connections: usize,
    wanted: impl Fn(&str) -> bool,
) -> Vec<(&'static str, io::Result<f64>)> {
    let few = Scenario::Echo { connections: 50, bytes: 64 };
    let many = Scenario::Echo { connections, bytes: 64 };
    let of = |peer| {
        let child = Child::start(peer, many)?;
        // What is made once is made now.
        Load::new(few, &child.address)?.run(500)?;
        let before = child.resident()?;
        let mut load = Load::new(many, &child.address)?;
        load.run(connections as u64)?;
        Ok(child.resident()?.saturating_sub(before) as f64 / connections as f64)
    };
    let peers = NAMES.into_iter().filter(|peer| many.is_for(peer) && wanted(peer));
    peers.map(|peer| (peer, of(peer))).collect()
}

/// What a server's process is told.
struct Job<'a> {
    kind: &'a str,
    connections: usize,
    bytes: usize,
    file: PathBuf,
}

/// The whole of a server's process: prints where it listens, and serves until its parent kills it.
pub(crate) fn serve(words: &[String]) -> io::Result<()> {
    let [peer, kind, connections, bytes, file] = words else {
        return Err(io::Error::other("a server needs five words"));
    };
    let size = |word: &str| word.parse::<usize>().map_err(io::Error::other);
    let job = Job { kind, connections: size(connections)?, bytes: size(bytes)?, file: file.into() };
    child::end_with_parent();
    // Not the CPU of its parent, which has pinned itself too.
    pin(0);
    raw::os::raise_descriptor_limit();
    match &peer[..] {
        "raw" => raw_ring::serve(&job),
        "raw-epoll" => raw_epoll::serve(&job),
        "ours" => serve_by::<Ring>(&job),
        "ours-epoll" => serve_by::<Epoll>(&job),
        "ours-inline" => serve_by::<Inline>(&job),
        "tokio" => serve_by::<Tokio>(&job),
        "smol" => serve_by::<Smol>(&job),
        "monoio" => serve_by::<Monoio>(&job),
        "compio" => serve_by::<Compio>(&job),
        "glommio" => serve_by::<Glommio>(&job),
        _ => Err(io::Error::other(format!("nobody is called {peer}"))),
    }
}

fn serve_by<R: Serve>(job: &Job<'_>) -> io::Result<()> {
    let file = job.file.clone();
    match job.kind {
        "echo" => {
            let listener = child::announce_tcp()?;
            R::block_on(async move { R::echo(listener).await });
        }
        "unix" => {
            let path = child::announce_path()?;
            R::block_on(async move { R::echo_unix(path).await });
        }
        "udp" => {
            let socket = child::announce_udp()?;
            R::block_on(async move { R::echo_udp(socket).await });
        }
        "sink" => {
            let listener = child::announce_tcp()?;
            R::block_on(async move { R::sink(listener).await });
        }
        "files" => {
            let listener = child::announce_tcp()?;
            R::block_on(async move { R::files(listener, file).await });
        }
        kind => return Err(io::Error::other(format!("nobody serves {kind}"))),
    }
    Ok(())
}
