//! Listeners that a service manager opened and passed on: `LISTEN_FDS`, as systemd's socket activation has it.

use std::env;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::Domain;

use crate::driver::control;
use crate::net::{TcpListener, UnixListener};
use crate::runtime::core;
use crate::sys::file;

/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// A listener that was passed to this process.
#[derive(Debug)]
#[non_exhaustive]
pub enum PassedListener {
    /// It listens on TCP.
    Tcp(TcpListener),
    /// It listens on a UNIX socket.
    Unix(UnixListener),
}

/// The listeners that the service manager passed to this process, in order; none if it passed none. They are given
/// out once: a second call gives none.
///
/// # Errors
/// If `LISTEN_FDS` is there and wrong: no number, or a descriptor that is no listening stream socket.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # References
/// [sd_listen_fds(3)](https://man7.org/linux/man-pages/man3/sd_listen_fds.3.html)
#[track_caller]
pub fn listen_fds() -> io::Result<Vec<PassedListener>> {
    static GIVEN_OUT: AtomicBool = AtomicBool::new(false);
    let core = core::current();
    let (Ok(pid), Ok(count)) = (env::var("LISTEN_PID"), env::var("LISTEN_FDS")) else {
        return Ok(Vec::new());
    };
    if pid.parse() != Ok(std::process::id()) {
        return Ok(Vec::new()); // meant for another process of the family
    }
    let count: i32 = count.parse().map_err(|_| wrong(&format!("LISTEN_FDS={count} is no number")))?;
    if GIVEN_OUT.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let mut listeners = Vec::new();
    for number in FIRST..FIRST.saturating_add(count) {
        // It is taken over only when it is what it should be: a wrong number may be a descriptor of our own.
        let domain = match file::borrow(number).map(control::listening_domain) {
            Some(Ok(Some(domain))) => domain,
            _ => {
                return Err(wrong(&format!(
                    "LISTEN_FDS={count}, but descriptor {number} is no listening stream socket"
                )));
            }
        };
        let fd: OwnedFd = file::own(number);
        core.driver.adopt(&fd)?;
        listeners.push(if domain == Domain::UNIX {
            PassedListener::Unix(UnixListener::new(&core.driver, fd, false))
        } else {
            PassedListener::Tcp(TcpListener::new(&core.driver, fd, false))
        });
    }
    Ok(listeners)
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
