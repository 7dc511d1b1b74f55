//! The resolver of libc: from names to addresses and back. These calls wait for files and for servers.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::net::SocketAddr;
use std::ptr;

use socket2::SockAddr;

use crate::sys::errno;

/// Room for the name of a host and for that of a service: `NI_MAXHOST` and `NI_MAXSERV`.
const ROOM: (usize, usize) = (1025, 32);

/// Why the resolver has no answer.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// A code of its own: one of `EAI_…`.
    Code(c_int),
    /// What the system said.
    System(io::Error),
}

impl Refusal {
    /// `None` for success.
    fn from_code(code: c_int) -> Option<Self> {
        match code {
            0 => None,
            libc::EAI_SYSTEM => Some(Self::System(io::Error::from_raw_os_error(errno()))),
            libc::EAI_MEMORY => Some(Self::System(io::ErrorKind::OutOfMemory.into())),
            code => Some(Self::Code(code)),
        }
    }
}

/// What a code of the resolver means.
pub(crate) fn text_of(code: c_int) -> String {
    // SAFETY: any number may be asked for.
    let text = unsafe { libc::gai_strerror(code) };
    // SAFETY: it is a text that ends with a zero and is never freed.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// What is looked for; zero is anything.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hints {
    pub(crate) family: c_int,
    pub(crate) socket_type: c_int,
    pub(crate) flags: c_int,
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) address: SocketAddr,
    pub(crate) socket_type: c_int,
    pub(crate) canonical_name: Option<String>,
}

/// Frees a list of answers.
struct List(*mut libc::addrinfo);

impl Drop for List {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: getaddrinfo made the list, and nothing else frees it.
            unsafe { libc::freeaddrinfo(self.0) }
        }
    }
}

/// The addresses of a host and a service, in the order in which they should be tried.
pub(crate) fn getaddrinfo(
    host: Option<&CString>,
    service: &CString,
    hints: Hints,
) -> Result<Vec<Found>, Refusal> {
    // SAFETY: zeroes are valid hints: null pointers and numbers.
    let mut wanted: libc::addrinfo = unsafe { std::mem::zeroed() };
    (wanted.ai_family, wanted.ai_socktype, wanted.ai_flags) = (hints.family, hints.socket_type, hints.flags);
    let host = host.map_or(ptr::null(), |host| host.as_ptr());
    let mut list = List(ptr::null_mut());
    // SAFETY: the texts end with a zero and outlive the call, as the hints and the place of the answer do.
    let code = unsafe { libc::getaddrinfo(host, service.as_ptr(), &raw const wanted, &raw mut list.0) };
    if let Some(refusal) = Refusal::from_code(code) {
        return Err(refusal);
    }
    let mut found = Vec::new();
    let mut next = list.0;
    // SAFETY: each entry of the list points to the next one, the last to none; `list` keeps them all.
    while let Some(entry) = unsafe { next.as_ref() } {
        found.extend(read(entry));
        next = entry.ai_next;
    }
    Ok(found)
}

/// `None` for a family that is neither IPv4 nor IPv6.
fn read(entry: &libc::addrinfo) -> Option<Found> {
    let len = entry.ai_addrlen as usize;
    let copy = |storage: *mut socket2::SockAddrStorage, room: *mut libc::socklen_t| {
        // SAFETY: the entry has an address of so many bytes, and a storage has room for any.
        unsafe { ptr::copy_nonoverlapping(entry.ai_addr.cast::<u8>(), storage.cast(), len) };
        // SAFETY: it points to the length of the storage.
        unsafe { *room = entry.ai_addrlen };
        Ok(())
    };
    // SAFETY: `copy` writes an address and its length.
    let (_, address) = unsafe { SockAddr::try_init(copy) }.ok()?;
    // SAFETY: the canonical name is a text that ends with a zero, or null.
    let name = (!entry.ai_canonname.is_null()).then(|| unsafe { CStr::from_ptr(entry.ai_canonname) });
    Some(Found {
        address: address.as_socket()?,
        socket_type: entry.ai_socktype,
        canonical_name: name.map(|name| name.to_string_lossy().into_owned()),
    })
}

/// The names of a host and of a service, or their numbers.
pub(crate) fn getnameinfo(address: SocketAddr, flags: c_int) -> Result<(String, String), Refusal> {
    let address = SockAddr::from(address);
    let (mut host, mut service) = ([0_u8; ROOM.0], [0_u8; ROOM.1]);
    // SAFETY: the address has this length, and both texts have as much room as is said.
    let code = unsafe {
        libc::getnameinfo(
            address.as_ptr().cast(),
            address.len(),
            host.as_mut_ptr().cast::<c_char>(),
            ROOM.0 as libc::socklen_t,
            service.as_mut_ptr().cast::<c_char>(),
            ROOM.1 as libc::socklen_t,
            flags,
        )
    };
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    Refusal::from_code(code).map_or_else(|| Ok((text(&host), text(&service))), Err)
}
