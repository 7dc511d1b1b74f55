//! Where received bytes go: into a pooled buffer, or, when the pool is at its limit, into one of their own.
#![allow(unsafe_code)]
//!
//! # Safety
//! A landing belongs to an operation in flight, which keeps what it hands out (C3).

use std::rc::Rc;

use crate::buf::{BufferId, Chunk, Pool};
use crate::driver::Answer;

#[derive(Default)]
pub(super) struct Landing {
    /// The pooled buffer that the kernel did not choose itself.
    taken: Option<BufferId>,
    /// Where bytes go when the pool is at its limit.
    spare: Option<Vec<u8>>,
}

impl Landing {
    /// A place for the next bytes: a pooled buffer, or a spare one of `spare_size`. Submitted again, it keeps the one it
    /// has.
    #[inline]
    pub(super) fn place(&mut self, pool: &Pool, spare_size: usize) -> (*mut u8, usize) {
        if let Some(id) = self.taken {
            return (pool.address(id.into()).cast_mut(), pool.buffer_size());
        }
        if let Some(spare) = &mut self.spare {
            return (spare.as_mut_ptr(), spare.capacity().min(spare_size));
        }
        match pool.take() {
            Some(taken) => {
                self.taken = Some(taken.id);
                (taken.address, taken.size)
            }
            None => {
                let spare = self.spare.insert(Vec::with_capacity(spare_size));
                (spare.as_mut_ptr(), spare_size)
            }
        }
    }

    /// Whether bytes in the spare buffer are not delivered yet.
    #[inline]
    pub(super) fn is_occupied(&self) -> bool {
        self.spare.is_some()
    }

    /// Hands the pooled buffer over to the answer that tells of it.
    #[inline]
    pub(super) fn take_pooled(&mut self) -> Option<BufferId> {
        self.taken.take()
    }

    /// Gives back what nothing was received into.
    pub(super) fn clear(&mut self, pool: &Pool) {
        if let Some(id) = self.taken.take() {
            pool.release(id.into());
        }
        self.spare = None;
    }

    /// The chunk that a completion brought; `count` bytes. `tried`: by an attempt, which had taken its buffer from the
    /// pool.
    #[inline]
    pub(super) fn chunk(&mut self, pool: &Rc<Pool>, answer: Answer, count: usize, tried: bool) -> Chunk {
        let pool = pool.clone();
        if let Some(id) = answer.buffer() {
            let first = if tried { pool.address(id.into()) } else { pool.filled(id) };
            return Chunk::pooled(pool, id, first, count);
        }
        self.single_chunk(pool, count)
    }

    fn single_chunk(&mut self, pool: Rc<Pool>, count: usize) -> Chunk {
        if let Some(id) = self.taken.take() {
            let first = pool.address(id.into());
            return Chunk::pooled(pool, id, first, count);
        }
        let mut spare = self.spare.take().expect("bytes without a buffer");
        // SAFETY: the kernel initialised `count` bytes, at most the capacity.
        unsafe { spare.set_len(count) };
        Chunk::heap(pool, spare)
    }

    /// Gives back a buffer that nothing was received into, though the kernel chose it.
    pub(super) fn put_back(&mut self, pool: &Pool, answer: Answer) {
        if let Some(id) = answer.buffer() {
            pool.filled(id);
            pool.release(id.into());
        }
        if let Some(id) = self.taken.take() {
            pool.release(id.into());
        }
    }
}
