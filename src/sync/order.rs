//! In which order a queue gives its items.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;

/// How a queue orders its items: [`Fifo`], [`Lifo`] or [`Priority`].
pub trait Order: sealed::Sealed + Default {
    /// What is queued.
    type Item;

    #[doc(hidden)]
    fn push(&mut self, item: Self::Item);
    #[doc(hidden)]
    fn pop(&mut self) -> Option<Self::Item>;
    #[doc(hidden)]
    fn count(&self) -> usize;
}

mod sealed {
    #[allow(unnameable_types, reason = "this is what seals it")]
    pub trait Sealed {}
    impl<T> Sealed for super::Fifo<T> {}
    impl<T> Sealed for super::Lifo<T> {}
    impl<T: Ord> Sealed for super::Priority<T> {}
}

/// First in, first out.
pub struct Fifo<T>(VecDeque<T>);

/// Last in, first out.
pub struct Lifo<T>(Vec<T>);

/// The lowest first; of equal ones, the first that came.
pub struct Priority<T> {
    heap: BinaryHeap<Reverse<Numbered<T>>>,
    pushed: u64,
}

struct Numbered<T> {
    item: T,
    number: u64,
}

impl<T: Ord> Ord for Numbered<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.item.cmp(&other.item).then(self.number.cmp(&other.number))
    }
}

impl<T: Ord> PartialOrd for Numbered<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> PartialEq for Numbered<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T: Ord> Eq for Numbered<T> {}

impl<T> Order for Fifo<T> {
    type Item = T;

    fn push(&mut self, item: T) {
        self.0.push_back(item);
    }

    fn pop(&mut self) -> Option<T> {
        self.0.pop_front()
    }

    fn count(&self) -> usize {
        self.0.len()
    }
}

impl<T> Order for Lifo<T> {
    type Item = T;

    fn push(&mut self, item: T) {
        self.0.push(item);
    }

    fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    fn count(&self) -> usize {
        self.0.len()
    }
}

impl<T: Ord> Order for Priority<T> {
    type Item = T;

    fn push(&mut self, item: T) {
        self.pushed += 1;
        self.heap.push(Reverse(Numbered { item, number: self.pushed }));
    }

    fn pop(&mut self) -> Option<T> {
        self.heap.pop().map(|Reverse(numbered)| numbered.item)
    }

    fn count(&self) -> usize {
        self.heap.len()
    }
}

impl<T> Default for Fifo<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Default for Lifo<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Ord> Default for Priority<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), pushed: 0 }
    }
}

macro_rules! debug {
    ($($name:ident)*) => {
        $(impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        })*
    };
}
debug!(Fifo Lifo Priority);
