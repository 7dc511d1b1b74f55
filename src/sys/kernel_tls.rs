//! TLS by the kernel: what it is told about a connection, and what it tells.
#![allow(unsafe_code)]
#![cfg_attr(not(feature = "tls"), expect(dead_code, reason = "only TLS asks for it"))]
//!
//! # Safety
//! The kernel reads and writes as many bytes of an option as it is told, and these are the lengths of our arrays.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::sys::{errno, message};

/// The longest of the structures: AES-256-GCM and CHACHA20-POLY1305 have it.
const LEN_MAX: usize = 56;
/// Version and cipher, in front of all of them.
const PREFIX: usize = 4;
/// The number of the next record, behind all of them.
const SEQUENCE: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Tls12 = 0x0303,
    Tls13 = 0x0304,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cipher {
    Aes128Gcm = 51,
    Aes256Gcm = 52,
    Chacha20Poly1305 = 54,
}

/// Keys in the form that the kernel takes. They are wiped when this is dropped, and stay in their box until then: what is
/// moved leaves a copy.
pub(crate) struct Keys {
    bytes: [u8; LEN_MAX],
    len: usize,
}

impl Keys {
    /// For the first record; `None` if these are no keys of this cipher. `nonce` is what the number of a record is
    /// mixed with. In TLS 1.2 AES-GCM numbers its nonces itself: there it is the one that comes next.
    pub(crate) fn new(version: Version, cipher: Cipher, key: &[u8], nonce: &[u8; 12]) -> Option<Box<Self>> {
        // AES-GCM has the nonce in two fields: its end, and behind the key its beginning, the "salt".
        let (key_len, salt) = match cipher {
            Cipher::Aes128Gcm => (16, 4),
            Cipher::Aes256Gcm => (32, 4),
            Cipher::Chacha20Poly1305 => (32, 0),
        };
        if key.len() != key_len {
            return None;
        }
        let mut keys = Box::new(Self { bytes: [0; LEN_MAX], len: 0 });
        keys.push(&(version as u16).to_ne_bytes());
        keys.push(&(cipher as u16).to_ne_bytes());
        keys.push(&nonce[salt..]);
        keys.push(key);
        keys.push(&nonce[..salt]);
        keys.push(&[0; SEQUENCE]);
        Some(keys)
    }

    fn push(&mut self, part: &[u8]) {
        self.bytes[self.len..][..part.len()].copy_from_slice(part);
        self.len += part.len();
    }

    /// So many records were sent with them already.
    pub(crate) fn set_sequence(&mut self, records: u64) {
        self.bytes[self.len - SEQUENCE..self.len].copy_from_slice(&records.to_be_bytes());
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.bytes.fill(0);
        // Or the compiler would see that nobody reads that.
        std::hint::black_box(&self.bytes);
    }
}

/// Makes TLS possible on this connection. As long as there are no keys, nothing changes.
pub(crate) fn enable(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")
}

/// From now on the kernel makes records of what is sent, with these keys; or, if it does so already, with these instead.
pub(crate) fn set_send_keys(fd: BorrowedFd<'_>, keys: &Keys) -> io::Result<()> {
    set(fd, libc::SOL_TLS, libc::TLS_TX, &keys.bytes[..keys.len])
}

/// Whether this kernel, which has keys for this connection, would take others (6.14; TLS 1.3 only). Changes nothing.
pub(crate) fn takes_other_keys(fd: BorrowedFd<'_>) -> bool {
    let mut nothing = [0; PREFIX];
    nothing[..2].copy_from_slice(&(Version::Tls13 as u16).to_ne_bytes());
    // Keys of no cipher are refused in any case, but one that takes no others does not look at them.
    set(fd, libc::SOL_TLS, libc::TLS_TX, &nothing)
        .is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

/// How many records were sent with the keys that the kernel has.
pub(crate) fn records_sent(fd: BorrowedFd<'_>, cipher: Cipher) -> io::Result<u64> {
    let mut keys = Keys { bytes: [0; LEN_MAX], len: 0 };
    let mut len = if cipher == Cipher::Aes128Gcm { LEN_MAX - 16 } else { LEN_MAX } as libc::socklen_t;
    let place = keys.bytes.as_mut_ptr().cast();
    // SAFETY: there is room for `len` bytes.
    let got = unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_TLS, libc::TLS_TX, place, &raw mut len) };
    if got < 0 {
        return Err(io::Error::from_raw_os_error(errno()));
    }
    let sequence = keys.bytes[..len as usize].last_chunk::<SEQUENCE>();
    Ok(sequence.map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes)))
}

/// The control message that says of what type a record is.
pub(crate) fn push_record_type(control: &mut Vec<usize>, kind: u8) {
    message::push_control(control, libc::SOL_TLS, libc::TLS_SET_RECORD_TYPE, [kind].into_iter());
}

fn set(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let (address, len) = (value.as_ptr().cast(), value.len() as libc::socklen_t);
    // SAFETY: there are `len` bytes.
    let r = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, address, len) };
    if r < 0 { Err(io::Error::from_raw_os_error(errno())) } else { Ok(()) }
}
