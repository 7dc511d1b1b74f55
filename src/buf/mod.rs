//! Buffers that the kernel may use while the program runs on: owned ones, and the pooled ones it receives into.
#![allow(unsafe_code)]
//!
//! # Safety
//! [`IoBuf`] and [`IoBufMut`] are unsafe to implement because the kernel keeps the address of the bytes until the
//! operation's final completion, while the value itself is moved around (contract rule C3 in `driver`).

mod chunk;
mod pool;

pub use chunk::Chunk;
pub(crate) use pool::{BufferId, Pool, Starved};

use bytes::{Bytes, BytesMut};

/// An owned buffer whose bytes can be read by the kernel.
///
/// # Safety
/// `as_ptr` and `len` stay the same while the value is moved, and the bytes stay initialised and unchanged for as
/// long as nobody calls a method that takes `&mut self`. The methods do not panic and do not use this crate: they are
/// called while an operation is being submitted or completed.
pub unsafe trait IoBuf: 'static {
    /// The address of the first byte.
    fn as_ptr(&self) -> *const u8;
    /// How many initialised bytes there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The bytes.
    fn as_slice(&self) -> &[u8] {
        // SAFETY: there are so many initialised bytes, which nobody changes while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }
}

/// An owned buffer that the kernel can write into.
///
/// # Safety
/// `as_mut_ptr` points to `capacity` bytes, at least as many as `len`, that nobody else uses; both stay the same while
/// the value is moved.
pub unsafe trait IoBufMut: IoBuf {
    /// The address of the first byte.
    fn as_mut_ptr(&mut self) -> *mut u8;
    /// How many bytes fit.
    fn capacity(&self) -> usize;
    /// Says that the first `len` bytes are initialised now. Buffers of fixed length ignore it.
    ///
    /// # Safety
    /// The first `len` bytes are initialised and `len` is at most the capacity.
    unsafe fn set_len(&mut self, len: usize);
}

macro_rules! readable {
    ($($(#[$why:meta])* $t:ty),* $(,)?) => {
        // SAFETY: the bytes of each of these types are on the heap, in static memory or in a pooled buffer, never in
        // the value itself, so they do not move with it; only `&mut self` methods change them.
        $($(#[$why])* unsafe impl IoBuf for $t {
            fn as_ptr(&self) -> *const u8 {
                AsRef::<[u8]>::as_ref(self).as_ptr()
            }
            fn len(&self) -> usize {
                AsRef::<[u8]>::as_ref(self).len()
            }
        })*
    };
}

readable!(
    Vec<u8>,
    Box<[u8]>,
    String,
    Bytes,
    BytesMut,
    &'static [u8],
    &'static str,
    std::rc::Rc<[u8]>,
    std::sync::Arc<[u8]>,
    Chunk
);

// SAFETY: a static array does not move; it is behind a reference.
unsafe impl<const N: usize> IoBuf for &'static [u8; N] {
    fn as_ptr(&self) -> *const u8 {
        <[u8]>::as_ptr(*self)
    }
    fn len(&self) -> usize {
        N
    }
}

// SAFETY: only `&self` methods of the buffer can be called through an `Rc`, and the buffer does not move with it.
unsafe impl IoBuf for std::rc::Rc<dyn IoBuf> {
    fn as_ptr(&self) -> *const u8 {
        (**self).as_ptr()
    }
    fn len(&self) -> usize {
        (**self).len()
    }
}

// SAFETY: the allocation of a vector stays where it is until a `&mut self` method grows it.
unsafe impl IoBufMut for Vec<u8> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        Vec::as_mut_ptr(self)
    }
    fn capacity(&self) -> usize {
        Vec::capacity(self)
    }
    unsafe fn set_len(&mut self, len: usize) {
        // SAFETY: the caller's promise is the one that `Vec::set_len` asks for.
        unsafe { Vec::set_len(self, len) }
    }
}

// SAFETY: a boxed slice is one heap allocation of fixed length, wholly initialised.
unsafe impl IoBufMut for Box<[u8]> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        (**self).as_mut_ptr()
    }
    fn capacity(&self) -> usize {
        (**self).len()
    }
    unsafe fn set_len(&mut self, _len: usize) {}
}

// SAFETY: as for `Vec<u8>`: the bytes are on the heap and only `&mut self` methods move them.
unsafe impl IoBufMut for BytesMut {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        // By way of the spare capacity, since a pointer to the bytes that are there may be used for these only.
        let len = BytesMut::len(self);
        self.clear();
        let address = self.spare_capacity_mut().as_mut_ptr().cast();
        // SAFETY: so many were initialised before `clear`, which leaves them alone.
        unsafe { BytesMut::set_len(self, len) };
        address
    }
    fn capacity(&self) -> usize {
        BytesMut::capacity(self)
    }
    unsafe fn set_len(&mut self, len: usize) {
        // SAFETY: the caller's promise is the one that `BytesMut::set_len` asks for.
        unsafe { BytesMut::set_len(self, len) }
    }
}

/// Copies `bytes` to offset `at` of `buf`, whose first `at` bytes are initialised.
pub(crate) fn write<B: IoBufMut>(buf: &mut B, at: usize, bytes: &[u8]) {
    assert!(at + bytes.len() <= buf.capacity(), "the buffer is too small");
    // SAFETY: inside the buffer, as just checked.
    let to = unsafe { buf.as_mut_ptr().add(at) };
    // SAFETY: there is room, and an owned buffer does not overlap with what somebody else has borrowed.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    // SAFETY: the bytes before were initialised already, these are now.
    unsafe { buf.set_len(at + bytes.len()) };
}
