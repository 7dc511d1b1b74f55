//! The bytes that a stream has received and nobody has taken yet.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;

use crate::buf::Chunk;

/// Chunks in the order in which they came.
#[derive(Default)]
pub(crate) struct Inbound {
    /// The oldest; nearly always the only one, so that an idle connection needs no memory for a queue.
    first: Cell<Option<Chunk>>,
    /// Those behind it.
    rest: OnceCell<Box<RefCell<VecDeque<Chunk>>>>,
    bytes: Cell<usize>,
}

impl Inbound {
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    fn rest(&self) -> &RefCell<VecDeque<Chunk>> {
        self.rest.get_or_init(Box::default)
    }

    /// Takes the oldest chunk.
    #[inline]
    pub(crate) fn pop(&self) -> Option<Chunk> {
        let chunk = self.first.take()?;
        let left = self.bytes.get() - chunk.len();
        self.bytes.set(left);
        if left > 0 {
            self.move_up();
        }
        Some(chunk)
    }

    #[cold]
    fn move_up(&self) {
        self.first.set(self.rest().borrow_mut().pop_front());
    }

    #[inline]
    pub(crate) fn push_last(&self, chunk: Chunk) {
        if self.bytes.replace(self.bytes.get() + chunk.len()) == 0 {
            self.first.set(Some(chunk));
        } else {
            self.push_behind(chunk);
        }
    }

    #[cold]
    fn push_behind(&self, chunk: Chunk) {
        self.rest().borrow_mut().push_back(chunk);
    }

    /// Puts the rest of a chunk, or one that was received before all others, in front.
    pub(crate) fn push_first(&self, chunk: Chunk) {
        self.bytes.set(self.bytes.get() + chunk.len());
        if let Some(second) = self.first.replace(Some(chunk)) {
            self.rest().borrow_mut().push_front(second);
        }
    }
}
