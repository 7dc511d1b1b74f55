//! What the transport of a scenario is connected with: a plain socket or pipe, or one that speaks TLS.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

#[cfg(feature = "tls")]
use proactor::stream::tls::rustls::{ClientConnection, Connection, ServerConnection, pki_types::ServerName};

pub(super) struct Peer {
    plain: File,
    #[cfg(feature = "tls")]
    tls: Option<Connection>,
}

impl Peer {
    pub(super) fn new(plain: File) -> Self {
        Self {
            plain,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// The socket, or the end of the pipe.
    pub(super) fn plain(&self) -> &File {
        &self.plain
    }

    /// Whether there is something on its way from it, over TCP, that the other side's kernel has not acknowledged.
    pub(super) fn has_sent_more(&self) -> bool {
        let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
        let mut len = size_of_val(&info) as libc::socklen_t;
        let (socket, place) = (self.plain.as_raw_fd(), info.as_mut_ptr().cast());
        // SAFETY: the kernel writes at most `len` bytes, which are there. What is no TCP socket gets an error.
        let answer =
            unsafe { libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut len) };
        // SAFETY: a structure of numbers, which were zeros where the kernel wrote none.
        answer == 0 && unsafe { info.assume_init() }.tcpi_unacked > 0
    }
}

#[cfg(feature = "tls")]
impl Peer {
    /// From now on it speaks TLS, when it is told to.
    pub(super) fn secure(&mut self, is_server: bool) {
        let config = (crate::wrappers::tls::client(), crate::wrappers::tls::server());
        self.tls = Some(if is_server {
            ServerConnection::new(config.1.into()).expect("a server").into()
        } else {
            let name = ServerName::try_from("localhost").expect("a name");
            ClientConnection::new(config.0.into(), name).expect("a client").into()
        });
    }

    /// As far as it goes; true when that is done.
    pub(super) fn shakes_hands(&mut self) -> bool {
        while self.is_handshaking() {
            self.flush().expect("the transport takes it");
            let received = self.receive();
            if received.is_err() || !self.is_handshaking() {
                break;
            }
        }
        self.flush().expect("the transport takes it");
        !self.is_handshaking()
    }

    fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Takes what has come.
    fn receive(&mut self) -> io::Result<()> {
        let tls = self.tls.as_mut().expect("it speaks TLS");
        tls.read_tls(&mut self.plain)?;
        tls.process_new_packets().map(drop).map_err(io::Error::other)
    }

    /// Says goodbye.
    pub(super) fn end_tls(&mut self) -> io::Result<()> {
        self.tls.as_mut().expect("it speaks TLS").send_close_notify();
        self.flush()
    }
}

#[cfg(feature = "tls")]
impl Read for Peer {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(tls) = &mut self.tls else { return self.plain.read(buf) };
            match tls.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.receive()?,
                read => return read,
            }
        }
    }
}

#[cfg(feature = "tls")]
impl Write for Peer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.plain.write(buf) };
        let count = tls.writer().write(buf)?;
        self.flush()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            tls.write_tls(&mut self.plain)?;
        }
        Ok(())
    }
}

#[cfg(not(feature = "tls"))]
impl Read for Peer {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.plain.read(buf)
    }
}

#[cfg(not(feature = "tls"))]
impl Write for Peer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.plain.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
