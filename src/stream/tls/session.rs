//! One TLS connection as a state machine: bytes go in, bytes come out, and nothing in here waits for anything.
//!
//! Whoever uses it owes it three things: to feed it what the peer sent, in order; to send what [`Session::output`]
//! gives, all of it, in order and before anything that comes later, also after an error (it may be the alert that
//! tells the peer why); and to tell the end of the connection apart from the end that the peer has announced
//! ([`Session::peer_has_ended`]).

use std::fmt;
use std::io::{self, BufRead, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ProtocolVersion, ServerConfig, ServerConnection};

use crate::op::net::Record;
use crate::stream::tls::keys::{self, SendKeys};
use crate::sys::kernel_tls::{Cipher, Keys};

/// Bytes in front of each record: its type, a version and its length.
const HEADER: usize = 5;

/// The type of the records that carry what is sent; in TLS 1.3 all look like that.
const APPLICATION_DATA: u8 = 23;

/// The type of the records that speak of keys.
const HANDSHAKE: u8 = 22;

/// How much is encrypted at a time at most: what is encrypted has to be sent, whatever becomes of the sender.
pub(crate) const PIECE: usize = 64 << 10;

pub(crate) struct Session {
    connection: Connection,
    framing: Framing,
    peer_has_ended: bool,
    /// This side has said that it sends no more.
    has_ended: bool,
    /// Noted for the kernel.
    keys: Option<Arc<SendKeys>>,
}

impl Session {
    /// The client's side of a connection to `name`, against which the certificate of the server is checked.
    pub(crate) fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let connection = ClientConnection::new(config, name).map_err(tls_error)?;
        Ok(Self::of(connection.into()))
    }

    /// The server's side.
    pub(crate) fn server(config: Arc<ServerConfig>) -> io::Result<Self> {
        if config.max_early_data_size > 0 {
            let text = "data of clients before the handshake is not supported: set max_early_data_size to 0";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Self::of(ServerConnection::new(config).map_err(tls_error)?.into()))
    }

    fn of(mut connection: Connection) -> Self {
        // What is encrypted is taken out at once, and how much that may be is for the caller to say.
        connection.set_buffer_limit(None);
        Self { connection, framing: Framing::default(), peer_has_ended: false, has_ended: false, keys: None }
    }

    /// From now on the keys are noted, so that the kernel can be given them. To be asked for before the handshake.
    pub(crate) fn note_keys(&mut self) {
        self.keys = Some(Arc::default());
    }

    /// The keys to send with, for the kernel, and what cipher they are for; from now on [`records`](Self::records) gives
    /// what has to be sent, and `encrypt` and `output` are not for use. `None` if the kernel knows no such cipher, or the
    /// keys are not known.
    pub(crate) fn give_keys_away(&mut self) -> Option<(Box<Keys>, Cipher)> {
        // A peer that has asked for new keys already gets its answer first, as always.
        let _ = self.on_connection(|connection| connection.writer().write(&[]));
        if self.is_handshaking() || self.connection.wants_write() {
            return None;
        }
        let suite = self.connection.negotiated_cipher_suite()?;
        let cipher = keys::noted_cipher(suite)?;
        // TLS 1.3 has keys of their own for the handshake.
        let changes = if suite.tls13().is_some() { 2 } else { 1 };
        Some((self.keys.as_ref()?.give_away(changes)?, cipher))
    }

    /// The kernel does not get the keys, after all, nor any that come later.
    pub(crate) fn keep_keys(&mut self) {
        if let Some(keys) = self.keys.take() {
            keys.forget();
        }
    }

    /// Whether bytes may be sent.
    pub(crate) fn check_send(&self) -> io::Result<()> {
        if self.has_ended { Err(io::Error::from_raw_os_error(libc::EPIPE)) } else { Ok(()) }
    }

    /// What has to be sent now, where the kernel encrypts. With `before_bytes` also what must come before the next bytes:
    /// new keys, if the peer asked for some.
    pub(crate) fn records(&mut self, before_bytes: bool) -> Vec<Record> {
        if before_bytes {
            // It sends what it owes, and of nothing nothing.
            let _ = self.on_connection(|connection| connection.writer().write(&[]));
        }
        let mut output = Vec::new();
        self.output(&mut output);
        let (mut records, mut rest) = (Vec::new(), &output[..]);
        while let Some((&[kind, _, _, high, low], behind)) = rest.split_first_chunk::<HEADER>() {
            let (bytes, behind) = behind.split_at(usize::from(u16::from_be_bytes([high, low])));
            // After the handshake this is all that is said of handshakes: one message, one change of keys.
            let next_keys =
                if kind == HANDSHAKE { self.keys.as_ref().and_then(|keys| keys.next()) } else { None };
            records.push(Record { kind, bytes: bytes.to_vec(), next_keys });
            rest = behind;
        }
        records
    }

    /// Whatever may make keys goes through here.
    fn on_connection<R>(&mut self, work: impl FnOnce(&mut Connection) -> R) -> R {
        keys::noted_in(self.keys.as_ref(), || work(&mut self.connection))
    }

    /// Takes bytes that the peer sent, and appends what they say to `plaintext`. Returns how many it took: all of
    /// them, unless the peer ended the TLS connection. What is behind that end is not for TLS.
    ///
    /// # Errors
    /// If the peer broke the protocol, or is not trusted: the connection is over then. `plaintext` has what came
    /// before that.
    pub(crate) fn feed(&mut self, bytes: &[u8], plaintext: &mut Vec<u8>) -> io::Result<usize> {
        let mut taken = 0;
        // Record by record, so that nothing behind the last one is swallowed.
        while taken < bytes.len() && !self.peer_has_ended {
            let mut part = &bytes[taken..][..self.framing.rest_of_record(&bytes[taken..])];
            taken += part.len();
            while !part.is_empty() {
                if let Err(error) = self.connection.read_tls(&mut part) {
                    // A record that is longer than any may be: TLS has a better word for that.
                    self.on_connection(Connection::process_new_packets).map_err(tls_error)?;
                    return Err(error);
                }
            }
            let state = self.on_connection(Connection::process_new_packets).map_err(tls_error);
            self.take_plaintext(plaintext);
            self.peer_has_ended = state?.peer_has_closed();
        }
        Ok(taken)
    }

    fn take_plaintext(&mut self, plaintext: &mut Vec<u8>) {
        let mut reader = self.connection.reader();
        // An error says that there is no more for now.
        while let Ok(bytes) = reader.fill_buf()
            && !bytes.is_empty()
        {
            plaintext.extend_from_slice(bytes);
            let count = bytes.len();
            reader.consume(count);
        }
    }

    /// Encrypts the first bytes of `plaintext`, at most [`PIECE`]; returns how many. Only after the handshake. Appends
    /// that to `to`, behind what has to be sent before it.
    ///
    /// # Errors
    /// If nothing more can be sent. `to` has to be sent all the same.
    pub(crate) fn encrypt(&mut self, plaintext: &[u8], to: &mut Vec<u8>) -> io::Result<usize> {
        debug_assert!(!self.is_handshaking(), "nothing is encrypted before the handshake is done");
        self.check_send()?;
        self.output(to);
        let before = to.len();
        let count = self.on_connection(|connection| {
            connection.writer().write(&plaintext[..plaintext.len().min(PIECE)])
        })?;
        self.output(to);
        // Keys are good for so many records. TLS 1.3 renews them in time; TLS 1.2 cannot: then the library says that it
        // took the bytes, but what comes out is the alert that ends the connection, or nothing.
        if count > 0 && to.get(before) != Some(&APPLICATION_DATA) {
            self.has_ended = true;
            let text = "the keys of this TLS 1.2 connection are used up: nothing more can be sent";
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, text));
        }
        Ok(count)
    }

    /// Whether this version of TLS knows new keys.
    pub(crate) fn can_renew_keys(&self) -> bool {
        self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Goes on with new keys, and asks the peer to do the same.
    pub(crate) fn renew_keys(&mut self) -> io::Result<()> {
        self.on_connection(Connection::refresh_traffic_keys).map_err(tls_error)
    }

    /// Tells the peer that no more comes: its last record. Doing it twice does nothing.
    pub(crate) fn end(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.connection.send_close_notify();
        }
    }

    /// Appends what has to be sent to the peer now.
    pub(crate) fn output(&mut self, to: &mut Vec<u8>) {
        while self.connection.wants_write() {
            self.connection.write_tls(to).expect("a vector takes all");
        }
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether the peer said that it sends no more, so that nothing was cut off.
    pub(crate) fn peer_has_ended(&self) -> bool {
        self.peer_has_ended
    }

    /// Whether this side is the server.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self.connection, Connection::Server(_))
    }

    /// What was agreed in the handshake.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("server", &self.is_server())
            .field("handshaking", &self.is_handshaking())
            .field("peer_has_ended", &self.peer_has_ended)
            .finish_non_exhaustive()
    }
}

/// Where in the stream of records the next byte belongs.
#[derive(Debug, Default)]
struct Framing {
    header: [u8; HEADER],
    header_len: usize,
    body_left: usize,
}

impl Framing {
    /// How many of `bytes` belong to the record that they begin in.
    fn rest_of_record(&mut self, bytes: &[u8]) -> usize {
        let mut count = 0;
        if self.body_left == 0 {
            count = (HEADER - self.header_len).min(bytes.len());
            self.header[self.header_len..][..count].copy_from_slice(&bytes[..count]);
            self.header_len += count;
            if self.header_len < HEADER {
                return count;
            }
            self.header_len = 0;
            self.body_left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
        }
        let body = self.body_left.min(bytes.len() - count);
        self.body_left -= body;
        count + body
    }
}

/// What TLS has to say, as every other error of a stream; the [`rustls::Error`] is inside.
pub(crate) fn tls_error(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::Framing;

    #[test]
    fn records_end_where_their_headers_say_however_the_bytes_come() {
        let stream =
            [&[22, 3, 3, 0, 3, 1, 2, 3][..], &[21, 3, 3, 0, 0], &[23, 3, 3, 1, 0], &[7; 256]].concat();
        for size in 1..=stream.len() {
            let (mut framing, mut ends, mut at) = (Framing::default(), Vec::new(), 0);
            for piece in stream.chunks(size) {
                let mut rest = piece;
                while !rest.is_empty() {
                    let count = framing.rest_of_record(rest);
                    assert!(count > 0);
                    at += count;
                    if framing.header_len == 0 && framing.body_left == 0 {
                        ends.push(at);
                    }
                    rest = &rest[count..];
                }
            }
            assert_eq!(ends, [8, 13, 13 + 261]);
        }
    }
}
