//! A server's process, as its parent sees it; and how the server says where it listens.

use super::Scenario;
use super::client::Done;
use crate::measure::{Cost, pin};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How large the file is that servers send.
pub(crate) const FILE_BYTES: u64 = 100 << 20;

/// Where a server listens.
#[derive(Clone)]
pub(crate) enum Address {
    Inet(SocketAddrV4),
    Path(PathBuf),
}

/// Killed when this is dropped.
pub(crate) struct Child {
    process: std::process::Child,
    pub(crate) address: Address,
}

impl Child {
    pub(crate) fn start(peer: &str, scenario: Scenario) -> io::Result<Child> {
        let program = std::env::current_exe()?;
        let (connections, bytes) = scenario.size();
        let mut process = Command::new(program)
            .args(["--serve", peer, scenario.kind(), &connections.to_string(), &bytes.to_string()])
            .arg(file()?)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("it is piped")).read_line(&mut line)?;
        let line = line.trim();
        let address = match line.parse() {
            Ok(address) => Address::Inet(address),
            Err(_) if line.starts_with('/') => Address::Path(line.into()),
            Err(_) => return Err(io::Error::other(format!("the server {peer} does not start"))),
        };
        // The server has pinned itself to the first.
        pin(1);
        Ok(Child { process, address })
    }

    /// The CPU time of the server while `load` runs.
    pub(crate) fn cost_of(&mut self, load: impl FnOnce() -> Done) -> Cost {
        let before = self.cpu();
        let done = load();
        Cost { cpu: self.cpu() - before, operations: done.operations, p99: done.p99 }
    }

    fn cpu(&self) -> Duration {
        // The clock of a process that runs on another CPU counts up to its last switch: let it fall asleep.
        std::thread::sleep(Duration::from_millis(1));
        let mut clock = 0;
        // SAFETY: the kernel is given a number, and a place on this stack to write to.
        let failed = unsafe { libc::clock_getcpuclockid(self.process.id() as libc::pid_t, &mut clock) };
        assert_eq!(failed, 0, "the server runs");
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: as above.
        let failed = unsafe { libc::clock_gettime(clock, &mut time) };
        assert_eq!(failed, 0, "the server runs");
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    /// Its resident memory, in bytes.
    pub(crate) fn resident(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib =
            line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse::<u64>().ok());
        Ok(kib.ok_or_else(|| io::Error::other("the server has ended"))? * 1024)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Address::Path(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The file that servers send, made once.
pub(crate) fn file() -> io::Result<PathBuf> {
    let path = std::env::temp_dir().join("proactor-peers-file");
    if std::fs::metadata(&path).map(|found| found.len()).ok() != Some(FILE_BYTES) {
        std::fs::write(&path, vec![0x5a; FILE_BYTES as usize])?;
    }
    Ok(path)
}

/// Ends a server when the process that started it has ended, however that went.
pub(crate) fn end_with_parent() {
    // SAFETY: passes numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

fn announce(address: &str) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{address}")?;
    out.flush()
}

/// Reno: some systems default to BBR, which paces what it sends even on loopback. What is accepted inherits both options.
pub(crate) fn announce_tcp() -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    let _ = socket.set_tcp_congestion(b"reno");
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
    socket.listen(4096)?;
    let listener: TcpListener = socket.into();
    announce(&listener.local_addr()?.to_string())?;
    Ok(listener)
}

pub(crate) fn announce_udp() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    announce(&socket.local_addr()?.to_string())?;
    Ok(socket)
}

/// A free path; who connects tries until there is a socket.
pub(crate) fn announce_path() -> io::Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("proactor-peers-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    announce(&path.display().to_string())?;
    Ok(path)
}

/// sendfile(2), once, for runtimes that have readiness and no sendfile of their own.
pub(crate) fn send_file(socket: &impl AsRawFd, file: &File, offset: u64, bytes: u64) -> io::Result<u64> {
    let mut at = offset as libc::off_t;
    // SAFETY: two numbers that the caller keeps open, and an offset on this stack.
    let n = unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &mut at, bytes as usize) };
    match n {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        1.. => Ok(n as u64),
        _ => Err(io::Error::last_os_error()),
    }
}
