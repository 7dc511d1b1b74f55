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
mod smol;
mod tokio;

use crate::measure::Case;
use crate::peers::{Compio, Epoll, Glommio, Monoio, Ring, Smol, Tokio};
use crate::raw;
use crate::tasks::runtime::Runtime;
use child::Child;
pub(crate) use child::file;
use client::Load;
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// What a peer's server has to do, in its own best way. None of these ends.
pub(crate) trait Serve: Runtime {
    /// Sends back what comes.
    fn echo(listener: TcpListener) -> impl Future<Output = ()>;

    /// The same on a UNIX socket, which it makes.
    fn echo_unix(path: PathBuf) -> impl Future<Output = ()>;

    /// Discards what comes, and at its end sends one byte.
    fn sink(listener: TcpListener) -> impl Future<Output = ()>;

    /// For each request, a number of bytes in eight little-endian bytes, sends so much of the file.
    fn files(listener: TcpListener, file: PathBuf) -> impl Future<Output = ()>;
}

pub(crate) trait ServeUdp: Runtime {
    /// Sends each datagram back.
    fn echo(socket: UdpSocket) -> impl Future<Output = ()>;
}

const NAMES: [&str; 8] = ["raw", "ours", "ours-epoll", "tokio", "smol", "monoio", "compio", "glommio"];

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

    fn is_for(self, peer: &str) -> bool {
        match self {
            Self::Echo { .. } | Self::Unix { .. } | Self::Churn { .. } => true,
            Self::Udp { .. } => !matches!(peer, "raw" | "ours" | "ours-epoll"),
            Self::Bulk { .. } | Self::Files { .. } => peer != "raw",
        }
    }
}

const SCENARIOS: [(&str, Scenario); 13] = [
    ("echo 64 B, connections 1", Scenario::Echo { connections: 1, bytes: 64 }),
    ("echo 64 B, connections 50", Scenario::Echo { connections: 50, bytes: 64 }),
    ("echo 64 B, connections 1000", Scenario::Echo { connections: 1000, bytes: 64 }),
    ("echo 4 KiB, connections 1", Scenario::Echo { connections: 1, bytes: 4096 }),
    ("echo 4 KiB, connections 50", Scenario::Echo { connections: 50, bytes: 4096 }),
    ("echo 4 KiB, connections 1000", Scenario::Echo { connections: 1000, bytes: 4096 }),
    ("UNIX echo 64 B, connections 50", Scenario::Unix { connections: 50, bytes: 64 }),
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
                        let child = Child::start(peer, scenario.kind())?;
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

/// Resident memory for each of so many idle connections, by peer, in bytes.
pub(crate) fn idle_memory(
    connections: usize,
    wanted: impl Fn(&str) -> bool,
) -> io::Result<Vec<(&'static str, f64)>> {
    let mut found = Vec::new();
    for peer in NAMES.into_iter().filter(|peer| wanted(peer)) {
        let child = Child::start(peer, "echo")?;
        // What is made once is made now.
        Load::new(Scenario::Echo { connections: 50, bytes: 64 }, &child.address)?.run(500)?;
        let before = child.resident()?;
        let mut load = Load::new(Scenario::Echo { connections, bytes: 64 }, &child.address)?;
        load.run(connections as u64)?;
        found.push((peer, child.resident()?.saturating_sub(before) as f64 / connections as f64));
    }
    Ok(found)
}

/// The whole of a server's process: prints where it listens, and serves until its parent is gone.
pub(crate) fn serve(peer: &str, kind: &str, file: &Path) -> io::Result<()> {
    raw::os::pin(false);
    raw::os::raise_descriptor_limit();
    match peer {
        "raw" => serve_raw(kind),
        "ours" => serve_by::<Ring>(kind, file),
        "ours-epoll" => serve_by::<Epoll>(kind, file),
        "tokio" => udp_too::<Tokio>(kind, file),
        "smol" => udp_too::<Smol>(kind, file),
        "monoio" => udp_too::<Monoio>(kind, file),
        "compio" => udp_too::<Compio>(kind, file),
        "glommio" => udp_too::<Glommio>(kind, file),
        _ => Err(io::Error::other(format!("nobody is called {peer}"))),
    }
}

fn serve_raw(kind: &str) -> io::Result<()> {
    let (stop, _never) = UnixStream::pair()?;
    let listener = match kind {
        "unix" => std::os::unix::net::UnixListener::bind(child::announce_path()?)?.into(),
        _ => child::announce_tcp()?.into(),
    };
    raw::server::serve(listener, stop.into())
}

fn serve_by<R: Serve>(kind: &str, file: &Path) -> io::Result<()> {
    let file = file.to_path_buf();
    match kind {
        "echo" => {
            let listener = child::announce_tcp()?;
            R::block_on(async move { R::echo(listener).await });
        }
        "unix" => {
            let path = child::announce_path()?;
            R::block_on(async move { R::echo_unix(path).await });
        }
        "sink" => {
            let listener = child::announce_tcp()?;
            R::block_on(async move { R::sink(listener).await });
        }
        "files" => {
            let listener = child::announce_tcp()?;
            R::block_on(async move { R::files(listener, file).await });
        }
        _ => return Err(io::Error::other(format!("nobody serves {kind}"))),
    }
    Ok(())
}

fn udp_too<R: Serve + ServeUdp>(kind: &str, file: &Path) -> io::Result<()> {
    if kind != "udp" {
        return serve_by::<R>(kind, file);
    }
    let socket = child::announce_udp()?;
    R::block_on(async move { <R as ServeUdp>::echo(socket).await });
    Ok(())
}
