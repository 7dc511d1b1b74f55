//! What queues and memory streams have in common: a buffer, those who wait for an item, those who wait for room.
//!
//! An item for somebody who waits goes into the buffer and is *promised*: its receiver finds one there when it runs, and
//! nobody else gets it. If that receiver has gone, the item has not moved, and is promised to the next or is there for all.
//! Promised items take no room: they are as good as received.
//!
//! While somebody waits for an item, no item is there that is not promised, and nobody waits for room.

use std::cell::{Cell, RefCell};
use std::mem;

use crate::sync::order::Order;
use crate::sync::waiters::Waiters;

pub(crate) struct Channel<O: Order> {
    /// Comparing items is user code: what it panics with leaves the counts right.
    items: RefCell<O>,
    capacity: usize,
    promised: Cell<usize>,
    taken_in: Cell<u64>,
    receivers: Waiters,
    /// With the items that they have for the channel.
    senders: Waiters<O::Item>,
}

impl<O: Order> Channel<O> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            items: RefCell::default(),
            capacity,
            promised: Cell::new(0),
            taken_in: Cell::new(0),
            receivers: Waiters::default(),
            senders: Waiters::default(),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Items that are promised to nobody.
    pub(crate) fn len(&self) -> usize {
        self.items.borrow().count() - self.promised.get()
    }

    /// How many items came in so far, not counting those whose senders wait.
    pub(crate) fn taken_in(&self) -> u64 {
        self.taken_in.get()
    }

    pub(crate) fn receivers(&self) -> &Waiters {
        &self.receivers
    }

    pub(crate) fn senders(&self) -> &Waiters<O::Item> {
        &self.senders
    }

    /// Takes an item in, if somebody waits for it or there is room; or gives it back.
    pub(crate) fn send_now(&self, item: O::Item) -> Result<(), O::Item> {
        let receiver = self.receivers.grant();
        if receiver.is_some() {
            self.promised.set(self.promised.get() + 1);
        } else if self.len() >= self.capacity {
            return Err(item);
        }
        self.push(item);
        drop(receiver);
        Ok(())
    }

    /// Takes out an item that is promised to nobody.
    pub(crate) fn receive_now(&self) -> Option<O::Item> {
        self.promise().then(|| self.receive_promised())
    }

    /// Promises an item to the caller, if there is one that is promised to nobody, in the buffer or with a sender.
    pub(crate) fn promise(&self) -> bool {
        let is_there = match self.len() {
            0 => self.admit(),
            len => {
                // One goes, so there is room for one.
                if len <= self.capacity {
                    self.admit();
                }
                true
            }
        };
        self.promised.set(self.promised.get() + usize::from(is_there));
        is_there
    }

    /// Takes out the item that was promised to the caller.
    pub(crate) fn receive_promised(&self) -> O::Item {
        self.promised.set(self.promised.get() - 1);
        self.items.borrow_mut().pop().expect("an item that was promised is there")
    }

    /// Whom an item was promised to has gone: the next who waits gets it, or it is there for all.
    pub(crate) fn withdraw_promise(&self) {
        match self.receivers.grant() {
            Some(((), wake)) => drop(wake),
            None => self.promised.set(self.promised.get() - 1),
        }
    }

    /// Takes out everything that is promised to nobody.
    pub(crate) fn drain(&self) -> O {
        let mut items = self.items.borrow_mut();
        let promised: Vec<_> = (0..self.promised.get()).map_while(|_| items.pop()).collect();
        let rest = mem::take(&mut *items);
        promised.into_iter().for_each(|item| items.push(item));
        rest
    }

    /// The item of the sender that has waited the longest comes into the buffer.
    fn admit(&self) -> bool {
        let Some((item, wake)) = self.senders.grant() else { return false };
        self.push(item);
        drop(wake);
        true
    }

    fn push(&self, item: O::Item) {
        self.taken_in.set(self.taken_in.get() + 1);
        self.items.borrow_mut().push(item);
    }
}
