//! A piece of received bytes, where the kernel put it.
#![allow(unsafe_code)]
//!
//! # Safety
//! A chunk reads memory that the pool keeps alive and out of the kernel's hands while any chunk refers to it: the pool
//! counts the references (`pool.rs`), and gives a buffer back to the kernel only when the count is zero.

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use bytes::Bytes;

use crate::buf::pool::Home;
use crate::buf::{BufferId, Pool};

/// Received bytes, still in the buffer that the kernel wrote them into: no copy was made.
///
/// A chunk keeps its buffer out of the pool; dropping it gives the buffer back. Holding on to many chunks is allowed:
/// when the pool meets its limit, sockets go on with small buffers of their own.
///
/// Chunks stay on their loop's thread. `Bytes::from(chunk)` gives something that may leave it.
pub struct Chunk {
    pool: Rc<Pool>,
    first: *const u8,
    len: u32,
    /// What keeps the bytes where they are.
    home: Home,
}

/// Up to this size `Bytes::from` copies and gives the buffer back at once; a buffer taken out of the pool has to be
/// replaced by a fresh allocation, which costs more than copying this much.
const COPY_MAX: usize = 4096;

impl Chunk {
    /// A chunk over the first `len` bytes of a pooled buffer at `first`. Takes over one reference of the buffer.
    #[inline]
    pub(crate) fn pooled(pool: Rc<Pool>, id: BufferId, first: *const u8, len: usize) -> Self {
        debug_assert!(len <= pool.buffer_size());
        Self { pool, first, len: len as u32, home: Home::from(id) }
    }

    /// A chunk of `bytes`, which are no buffer of the pool.
    pub(crate) fn heap(pool: Rc<Pool>, bytes: Vec<u8>) -> Self {
        let len = u32::try_from(bytes.len()).expect("a receive is below 4 GiB");
        let first = bytes.as_ptr();
        Self { home: pool.keep(bytes), pool, first, len }
    }

    /// A part of the bytes of a chunk that is not initialised everywhere: rooms of which only some was used.
    ///
    /// # Safety
    /// The kernel initialised these `len` bytes.
    pub(crate) unsafe fn part(&self, at: usize, len: usize) -> &[u8] {
        assert!(at + len <= self.len as usize, "a part beyond a chunk of {} bytes", self.len);
        // SAFETY: inside the bytes, as was just checked.
        let first = unsafe { self.first.add(at) };
        // SAFETY: as in `deref`; these are initialised, as the caller promises.
        unsafe { std::slice::from_raw_parts(first, len) }
    }

    /// Splits off the first `at` bytes and returns them; `self` keeps the rest. Both share the buffer.
    ///
    /// # Panics
    /// If `at` is beyond the end.
    ///
    /// # Examples
    /// ```
    /// # fn demo(mut chunk: proactor::buf::Chunk) {
    /// let header = chunk.split_to(4);
    /// assert_eq!(header.len(), 4);
    /// # }
    /// ```
    #[must_use]
    pub fn split_to(&mut self, at: usize) -> Self {
        assert!(at <= self.len as usize, "split_to({at}) beyond a chunk of {} bytes", self.len);
        self.pool.share(self.home);
        let head = Self { pool: self.pool.clone(), first: self.first, len: at as u32, home: self.home };
        self.advance(at);
        head
    }

    /// Drops the first `count` bytes.
    ///
    /// # Panics
    /// If `count` is beyond the end.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len as usize, "advance({count}) beyond a chunk of {} bytes", self.len);
        // SAFETY: still inside the bytes, or just behind them, as was checked.
        self.first = unsafe { self.first.add(count) };
        self.len -= count as u32;
    }

    /// Copies the bytes into a vector and gives the buffer back.
    pub fn into_vec(self) -> Vec<u8> {
        self.to_vec()
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `first` and `len` never leave what was received (`pooled`, `heap`, `advance`); those bytes are
        // initialised, stay where they are as long as `home` is ours, and nobody writes to them: not the kernel, while
        // the buffer's reference count, of which this chunk holds one, is above zero.
        unsafe { std::slice::from_raw_parts(self.first, self.len as usize) }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Chunk {
    #[inline]
    fn drop(&mut self) {
        self.pool.release(self.home);
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk").field("len", &self.len).finish_non_exhaustive()
    }
}

impl From<Vec<u8>> for Chunk {
    /// A chunk of other bytes than a socket's: for streams that make some of their own. No copy is made.
    ///
    /// # Panics
    /// If there are 4 GiB or more.
    fn from(bytes: Vec<u8>) -> Self {
        thread_local! {
            // One without buffers: it keeps what it is given.
            static KEEPER: Rc<Pool> = Pool::new(1, 1);
        }
        Self::heap(KEEPER.with(Rc::clone), bytes)
    }
}

impl From<Chunk> for Bytes {
    /// Copies a small chunk; takes the buffer of a big one out of the pool, which replaces it when it needs one.
    fn from(chunk: Chunk) -> Self {
        if chunk.len as usize > COPY_MAX
            && let start = chunk.first.addr() - chunk.pool.address(chunk.home).addr()
            && let Some(vec) = chunk.pool.take_out(chunk.home, start + chunk.len as usize)
        {
            return Bytes::from(vec).slice(start..);
        }
        Bytes::copy_from_slice(&chunk)
    }
}
