//! A queue of waiting futures, first come, first served: what everything in this module stands on.
//!
//! A future enters with a value, gets a [`Key`], and registers its waker at each poll. Whoever has something to give
//! *grants* it to the first in the queue: that one is taken out of the order, and its value is handed to the granter. Its
//! entry stays until the future comes for it, or goes without: then it hears whether it was granted, and passes on what
//! it was granted. Every step takes constant time, and none asks for memory once the table has its size.

use std::cell::RefCell;
use std::fmt;
use std::mem;
use std::task::{Context, Waker};

use slab::Slab;

use crate::runtime::contain;
use crate::runtime::scope::What;
use crate::runtime::wait::Waiter;

/// No entry: the end of the order.
const NONE: u32 = u32::MAX;

/// Names the entry of one future. Neither `Copy` nor `Clone`, and given back when the future leaves: no key is stale.
#[derive(Debug)]
pub(crate) struct Key(u32);

struct Entry<V> {
    /// `None`: it was granted.
    value: Option<V>,
    waiter: Waiter,
    /// The neighbours in the order, while it was not granted.
    before: u32,
    after: u32,
}

struct List<V> {
    entries: Slab<Entry<V>>,
    first: u32,
    last: u32,
    waiting: usize,
}

/// The queue. `V` is what a future brings along.
pub(crate) struct Waiters<V = ()> {
    list: RefCell<List<V>>,
}

/// Wakes a future when it is dropped: nothing is lost if what comes between panics. A waker that panics harms nobody
/// but itself.
#[must_use = "drop it when nothing is borrowed and all is as it should be: that wakes"]
pub(crate) struct Wake(Option<Waker>);

impl Drop for Wake {
    fn drop(&mut self) {
        if let Some(waker) = self.0.take() {
            contain(|| waker.wake());
        }
    }
}

impl<V> List<V> {
    fn at(&mut self, slot: u32) -> &mut Entry<V> {
        &mut self.entries[slot as usize]
    }

    fn link_last(&mut self, slot: u32) {
        match self.last {
            NONE => self.first = slot,
            last => self.at(last).after = slot,
        }
        self.last = slot;
        self.waiting += 1;
    }

    fn unlink(&mut self, slot: u32) {
        let Entry { before, after, .. } = *self.at(slot);
        match before {
            NONE => self.first = after,
            before => self.at(before).after = after,
        }
        match after {
            NONE => self.last = before,
            after => self.at(after).before = before,
        }
        self.waiting -= 1;
    }
}

impl<V> Waiters<V> {
    /// How many wait and were not granted.
    pub(crate) fn len(&self) -> usize {
        self.list.borrow().waiting
    }

    /// A future joins the end of the queue.
    pub(crate) fn enter(&self, value: V) -> Key {
        let mut list = self.list.borrow_mut();
        let before = list.last;
        let entry = Entry { value: Some(value), waiter: Waiter::new(), before, after: NONE };
        let slot = u32::try_from(list.entries.insert(entry)).expect("fewer than 2^32 futures wait");
        list.link_last(slot);
        Key(slot)
    }

    /// From now on the future of `key` is woken through `cx`; `what` is what people are told that it waits for. False: it
    /// was granted meanwhile.
    pub(crate) fn register(&self, key: &Key, cx: &Context<'_>, what: What) -> bool {
        let waiter = mem::take(&mut self.list.borrow_mut().at(key.0).waiter);
        waiter.register_for(cx, what); // foreign code, so outside the borrow
        let mut list = self.list.borrow_mut();
        let entry = list.at(key.0);
        if entry.value.is_some() {
            entry.waiter = waiter;
            return true;
        }
        drop(list);
        waiter.clear();
        false
    }

    pub(crate) fn is_granted(&self, key: &Key) -> bool {
        self.list.borrow_mut().at(key.0).value.is_none()
    }

    /// The future goes. Returns what it brought along, or `None` if it was granted.
    pub(crate) fn leave(&self, key: Key) -> Option<V> {
        let entry = {
            let mut list = self.list.borrow_mut();
            if list.at(key.0).value.is_some() {
                list.unlink(key.0);
            }
            list.entries.remove(key.0 as usize)
        };
        entry.waiter.clear();
        entry.value
    }

    /// The first in the queue gets what it waits for: what it brought along, and its wake-up. `None` if nobody waits.
    pub(crate) fn grant(&self) -> Option<(V, Wake)> {
        let mut list = self.list.borrow_mut();
        let first = list.first;
        if first == NONE {
            return None;
        }
        list.unlink(first);
        let entry = list.at(first);
        let value = entry.value.take()?;
        Some((value, Wake(entry.waiter.take())))
    }

    /// Wakes all who wait, first to last, without granting them anything: they look again for themselves.
    pub(crate) fn wake_all(&self) {
        let mut wakers = Vec::new();
        let mut list = self.list.borrow_mut();
        let mut slot = list.first;
        while slot != NONE {
            let entry = list.at(slot);
            wakers.push(Wake(entry.waiter.take()));
            slot = entry.after;
        }
        drop(list);
        drop(wakers);
    }
}

impl<V> Default for Waiters<V> {
    fn default() -> Self {
        let list = List { entries: Slab::new(), first: NONE, last: NONE, waiting: 0 };
        Self { list: RefCell::new(list) }
    }
}

impl Waiters<()> {
    /// Grants all who wait now, first to last.
    pub(crate) fn grant_all(&self) {
        self.grant_many(self.len());
    }

    /// Grants at most `count`.
    pub(crate) fn grant_many(&self, count: usize) {
        let _granted = (0..count).map_while(|_| self.grant()).count();
    }
}

impl<V> fmt::Debug for Waiters<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiters").field("waiting", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, Waiters};
    use crate::runtime::scope::What;
    use std::collections::VecDeque;
    use std::task::{Context, Waker};

    const WHAT: What = What(&"a test");

    /// A plain model: a list of the numbers that wait, and one of those that were granted.
    #[test]
    fn grants_in_the_order_of_entering_whoever_leaves_between() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below.max(1) as u64) as usize
        };
        let waiters = Waiters::default();
        let mut waiting: VecDeque<(u32, Key)> = VecDeque::new();
        let mut granted: Vec<(u32, Key)> = Vec::new();
        for number in 0..20_000 {
            match random(5) {
                0 | 1 => {
                    let key = waiters.enter(number);
                    assert!(waiters.register(&key, &Context::from_waker(Waker::noop()), WHAT));
                    waiting.push_back((number, key));
                }
                2 => {
                    let granted_now = waiters.grant().map(|(value, wake)| {
                        drop(wake);
                        value
                    });
                    let first = waiting.pop_front();
                    assert_eq!(granted_now, first.as_ref().map(|(number, _)| *number));
                    granted.extend(first);
                }
                3 => {
                    if let Some((number, key)) = waiting.remove(random(waiting.len())) {
                        assert!(!waiters.is_granted(&key));
                        assert_eq!(
                            waiters.leave(key),
                            Some(number),
                            "who was not granted has its value back"
                        );
                    }
                }
                _ if !granted.is_empty() => {
                    let (_, key) = granted.swap_remove(random(granted.len()));
                    assert!(waiters.is_granted(&key));
                    assert!(!waiters.register(&key, &Context::from_waker(Waker::noop()), WHAT));
                    assert_eq!(waiters.leave(key), None);
                }
                _ => {}
            }
            assert_eq!(waiters.len(), waiting.len());
        }
        let left = waiting.len() + granted.len();
        assert_eq!(waiters.list.borrow().entries.len(), left, "an entry lives as long as its future waits");
    }
}
