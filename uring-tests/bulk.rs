//! What the tests of much data share: bytes that tell their place, connections that hold little, cancels on the way.

use std::cell::Cell;
use std::fs;
use std::future::Future;
use std::io;
use std::path::PathBuf;

use proactor::cancel::CancelScope;
use proactor::net::{Family, Stream, TcpStream};
use proactor::{Failed, spawn};

use crate::harness::{Folder, tcp_pair, turns};

pub(crate) const KIB: usize = 1 << 10;
pub(crate) const MIB: usize = 1 << 20;

/// Bytes that tell their place.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len.div_ceil(8))
        .flat_map(|at| (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes())
        .take(len)
        .collect()
}

/// A file of `len` bytes of the pattern.
pub(crate) fn file_of(folder: &Folder, len: usize) -> io::Result<PathBuf> {
    let path = folder.path(&format!("{len}"));
    fs::write(&path, pattern(len))?;
    Ok(path)
}

#[track_caller]
pub(crate) fn assert_same(received: &[u8], expected: &[u8], what: &str) {
    assert_eq!(received.len(), expected.len(), "{what}");
    if received != expected {
        let wrong = received.iter().zip(expected).position(|(a, b)| a != b);
        panic!("{what}: byte {wrong:?} is wrong");
    }
}

/// All bytes until the end of the stream.
pub(crate) async fn receive_all<F: Family>(stream: &Stream<F>) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.receive().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// Receives exactly `len` bytes.
pub(crate) async fn receive_exactly<F: Family>(stream: &Stream<F>, len: usize) -> io::Result<Vec<u8>> {
    let mut all = Vec::with_capacity(len);
    while all.len() < len {
        let (count, bytes) = stream.receive_into(Vec::with_capacity(len - all.len())).await?;
        assert!(count > 0, "the stream ended after {} of {len} bytes", all.len());
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// A connection whose sockets hold little. The first was accepted, as it is in a server.
pub(crate) async fn narrow_pair() -> io::Result<(TcpStream, TcpStream)> {
    let (theirs, ours) = tcp_pair().await?;
    ours.with_socket(|socket| socket.set_send_buffer_size(32 * KIB))?;
    theirs.with_socket(|socket| socket.set_recv_buffer_size(32 * KIB))?;
    Ok((ours, theirs))
}

/// A pair of which the first cannot send: what `theirs` has room for is there already.
pub(crate) async fn full_pair() -> io::Result<(TcpStream, TcpStream)> {
    let (ours, theirs) = narrow_pair().await?;
    ours.with_socket(|socket| socket.set_nonblocking(true))?;
    // The peer's kernel makes room a few times.
    let mut quiet = 0;
    while quiet < 10 {
        let is_full = ours.with_socket(|socket| Ok::<_, io::Error>(socket.send(&[0; 4096]).is_err()))?;
        quiet = if is_full { quiet + 1 } else { 0 };
        turns(1).await;
    }
    Ok((ours, theirs))
}

/// Cancels a transfer after some turns, or not if it was quicker: how many bytes it says it has done, and whether it was
/// stopped.
pub(crate) async fn cancelled_after(
    moment: usize,
    transfer: impl Future<Output = Result<u64, Failed<()>>>,
) -> io::Result<(usize, bool)> {
    let scope = CancelScope::new();
    let handle = scope.clone();
    drop(spawn(async move {
        turns(moment).await;
        handle.cancel();
    }));
    let told = Cell::new(None);
    let ended = scope.run(async {
        let ended = transfer.await;
        told.set(Some(match &ended {
            Ok(count) => *count as usize,
            Err(failed) => failed.done,
        }));
        ended.map(drop).map_err(io::Error::from)
    });
    let was_stopped = ended.await?.is_none();
    Ok((told.get().expect("it was told"), was_stopped))
}
