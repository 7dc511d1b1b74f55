//! The in-flight table: every operation that the kernel may still touch, in memory that never moves.
#![allow(unsafe_code)]
//!
//! # Safety
//! - A [`Slot`] lives in a boxed page; pages are never moved or freed before the table is, and the table is leaked if
//!   an operation is still in flight then (C12). So a reference to a slot lives as long as the table.
//! - `Slot::op` is `Some` exactly from `insert` to `take` or `remove`, and points to a live operation: in the slot's
//!   own storage if that is big enough, else in a box.
//! - An operation is accessed through `insert`, `with` and `complete` only. The functions of an operation never reach its own slot again
//!   (they may use every other one), so the `&mut` in there is the only one.

use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::task::Waker;

use crate::driver::{Aftermath, Op, Step};

/// Slots per page.
const PAGE: usize = 64;
/// Bytes of an operation that fit into its slot: receives, and sends of vectors, `Bytes` and chunks. Bigger ones are
/// boxed.
const INLINE: usize = 48;
/// Generations have 28 bits: the rest of `user_data` is the slot and a tag.
const GENERATION_MASK: u32 = (1 << 28) - 1;

/// Names one operation of one driver: its slot, and which of the slot's operations it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    slot: u32,
    generation: u32,
}

impl Key {
    pub(crate) const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, generation: (bits >> 32) as u32 & GENERATION_MASK }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// On the free list.
    Free,
    /// In flight, and a future waits for the result. Leaves by `finish` (to `Done`) or `detach`.
    Attached,
    /// In flight, and nobody waits: its resource takes what comes, or it is an orphan. Leaves by `finish` (to `Free`).
    Detached,
    /// The final completion came; the future has not fetched the result yet.
    Done,
}

struct Slot {
    generation: Cell<u32>,
    next_free: Cell<u32>,
    state: Cell<State>,
    cancel_asked: Cell<bool>,
    /// A thread of the pool has it, not the backend.
    pooled: Cell<bool>,
    /// It ended, and has nothing left to settle.
    settled: Cell<bool>,
    result: Cell<i32>,
    waker: Cell<Option<Waker>>,
    op: Cell<Option<NonNull<dyn Op>>>,
    storage: UnsafeCell<MaybeUninit<[u64; INLINE / 8]>>,
}

impl Slot {
    fn is_inline<O: Op>() -> bool {
        size_of::<O>() <= INLINE && align_of::<O>() <= align_of::<u64>()
    }

    fn is_in_storage(&self, op: NonNull<dyn Op>) -> bool {
        op.as_ptr().cast::<u8>() == self.storage.get().cast::<u8>()
    }
}

pub(crate) struct Table {
    /// Only `add_page` changes the list, and nothing keeps a reference to it.
    pages: UnsafeCell<Vec<Box<[Slot; PAGE]>>>,
    first_free: Cell<u32>,
    in_flight: Cell<usize>,
}

/// The end of the free list.
const NONE: u32 = u32::MAX;

impl Table {
    pub(crate) fn new() -> Self {
        Self { pages: UnsafeCell::default(), first_free: Cell::new(NONE), in_flight: Cell::new(0) }
    }

    /// Accepted operations without a final completion.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    #[inline]
    fn pages(&self) -> &[Box<[Slot; PAGE]>] {
        // SAFETY: the list is only changed in `add_page`, and no reference from here is alive then.
        unsafe { &*self.pages.get() }
    }

    #[inline]
    fn slot(&self, index: u32) -> &Slot {
        let slot = &raw const self.pages()[index as usize / PAGE][index as usize % PAGE];
        // SAFETY: the page is boxed and neither moved nor freed before `self` (see the top of this file), so the slot
        // outlives the reference to the list of pages.
        unsafe { &*slot }
    }

    #[inline]
    fn live(&self, key: Key) -> Option<&Slot> {
        let slot = &raw const self.pages().get(key.slot as usize / PAGE)?[key.slot as usize % PAGE];
        // SAFETY: as in `slot`.
        let slot = unsafe { &*slot };
        (slot.generation.get() == key.generation && slot.state.get() != State::Free).then_some(slot)
    }

    fn add_page(&self) {
        let first = (self.pages().len() * PAGE) as u32;
        let page = Box::new(std::array::from_fn(|i| Slot {
            generation: Cell::new(0),
            next_free: Cell::new(if i + 1 < PAGE { first + i as u32 + 1 } else { NONE }),
            state: Cell::new(State::Free),
            cancel_asked: Cell::new(false),
            pooled: Cell::new(false),
            settled: Cell::new(false),
            result: Cell::new(0),
            waker: Cell::new(None),
            op: Cell::new(None),
            storage: UnsafeCell::new(MaybeUninit::uninit()),
        }));
        // SAFETY: no reference to the list is alive: `pages` is private, and each use of it ends in its statement.
        unsafe { &mut *self.pages.get() }.push(page);
        self.first_free.set(first);
    }

    /// Accepts an operation, for a future that waits for it (`attached`) or for its resource. `submit` gets it where it
    /// stays from now on, and its key.
    #[inline]
    pub(crate) fn insert<O: Op>(&self, op: O, attached: bool, submit: impl FnOnce(&mut O, Key)) -> Key {
        if self.first_free.get() == NONE {
            self.add_page();
        }
        let index = self.first_free.get();
        let slot = self.slot(index);
        self.first_free.set(slot.next_free.get());
        debug_assert_eq!(slot.state.get(), State::Free);
        slot.state.set(if attached { State::Attached } else { State::Detached });
        slot.cancel_asked.set(false);
        slot.pooled.set(false);
        let mut op: NonNull<O> = if Slot::is_inline::<O>() {
            let place = slot.storage.get().cast::<O>();
            // SAFETY: the slot was free, so its storage is unused; size and alignment were checked.
            unsafe { place.write(op) };
            NonNull::new(place).expect("a field has an address")
        } else {
            NonNull::from(Box::leak(Box::new(op)))
        };
        slot.op.set(Some(op));
        self.in_flight.set(self.in_flight.get() + 1);
        let key = Key { slot: index, generation: slot.generation.get() };
        // SAFETY: `op` was just put there, and nothing else accesses it before `submit` returns, which, like the
        // functions of the operation, does not use the key to get at it (see the top of this file).
        submit(unsafe { op.as_mut() }, key);
        key
    }

    /// Whoever waits for the operation that was just inserted.
    #[inline]
    pub(crate) fn set_waker(&self, key: Key, waker: &Waker) {
        self.slot(key.slot).waker.set(Some(waker.clone()));
    }

    /// A completion came: `f` says what follows. A final one ends the operation at once.
    #[inline]
    pub(crate) fn complete(
        &self,
        key: Key,
        after: &mut Aftermath,
        f: impl FnOnce(&mut dyn Op, &mut Aftermath) -> Step,
    ) -> Option<Step> {
        // Work that was left to its thread may answer after it was given up: it is done already.
        let slot = self.live(key).filter(|slot| slot.state.get() != State::Done)?;
        let mut op = slot.op.get()?;
        // SAFETY: as in `with`.
        let step = f(unsafe { op.as_mut() }, after);
        if let Step::Done(result) = step {
            self.finish_slot(slot, key, result, after);
        }
        Some(step)
    }

    /// Calls `f` with the operation.
    #[inline]
    pub(crate) fn with<R>(&self, key: Key, f: impl FnOnce(&mut dyn Op) -> R) -> Option<R> {
        let mut op = self.live(key)?.op.get()?;
        // SAFETY: `op` points to a live operation, and this is the only access to it (see the top of this file).
        Some(f(unsafe { op.as_mut() }))
    }

    pub(crate) fn state(&self, key: Key) -> State {
        self.live(key).map_or(State::Free, |slot| slot.state.get())
    }

    /// Notes that a cancel was asked; false if it was before, or if there is nothing to cancel.
    pub(crate) fn ask_cancel(&self, key: Key) -> bool {
        let Some(slot) = self.live(key) else { return false };
        slot.state.get() != State::Done && !slot.cancel_asked.replace(true)
    }

    /// Nobody wants it to end any more.
    pub(crate) fn withdraw_cancel(&self, key: Key) {
        if let Some(slot) = self.live(key) {
            slot.cancel_asked.set(false);
        }
    }

    /// The result of an operation that is done and whose future is gone.
    pub(crate) fn result(&self, key: Key) -> Option<i32> {
        self.live(key).filter(|slot| slot.state.get() == State::Done).map(|slot| slot.result.get())
    }

    /// Whether an operation that is done has nothing left to settle.
    pub(crate) fn is_settled(&self, key: Key) -> bool {
        self.live(key).is_some_and(|slot| slot.settled.get())
    }

    /// An operation that ended goes on, and nobody waits for it.
    pub(crate) fn reopen(&self, key: Key) {
        if let Some(slot) = self.live(key) {
            debug_assert_eq!(slot.state.get(), State::Done);
            slot.state.set(State::Detached);
            slot.cancel_asked.set(false);
            self.in_flight.set(self.in_flight.get() + 1);
        }
    }

    pub(crate) fn is_cancel_asked(&self, key: Key) -> bool {
        self.live(key).is_some_and(|slot| slot.cancel_asked.get())
    }

    pub(crate) fn set_pooled(&self, key: Key, pooled: bool) {
        if let Some(slot) = self.live(key) {
            slot.pooled.set(pooled);
        }
    }

    pub(crate) fn is_pooled(&self, key: Key) -> bool {
        self.live(key).is_some_and(|slot| slot.pooled.get())
    }

    /// The final completion came. Wakes the future of an attached operation.
    pub(crate) fn finish(&self, key: Key, result: i32, after: &mut Aftermath) {
        if let Some(slot) = self.live(key).filter(|slot| slot.state.get() != State::Done) {
            self.finish_slot(slot, key, result, after);
        }
    }

    #[inline]
    fn finish_slot(&self, slot: &Slot, key: Key, result: i32, after: &mut Aftermath) {
        self.in_flight.set(self.in_flight.get() - 1);
        match slot.state.get() {
            State::Attached => {
                slot.result.set(result);
                slot.state.set(State::Done);
                if let Some(waker) = slot.waker.take() {
                    after.wake_one(waker);
                }
                if let Some(mut op) = slot.op.get() {
                    // SAFETY: as in `with`.
                    slot.settled.set(unsafe { op.as_mut() }.ended(result, after));
                }
            }
            State::Detached => {
                self.with(key, |op| op.settle(result, after));
                self.remove(key);
            }
            State::Free | State::Done => unreachable!("a second final completion"),
        }
    }

    /// Whether the final completion came; if not, `waker` is called when it does.
    #[inline]
    pub(crate) fn poll(&self, key: Key, waker: &Waker) -> bool {
        let slot = self.slot(key.slot);
        if slot.state.get() == State::Done {
            return true;
        }
        let old = slot.waker.take();
        slot.waker.set(Some(match old {
            Some(old) if old.will_wake(waker) => old,
            _ => waker.clone(),
        }));
        false
    }

    /// Takes a finished operation out, with its result.
    ///
    /// # Safety
    /// `key` names an operation that was inserted as an `O` and is `Done`.
    #[inline]
    pub(crate) unsafe fn take<O: Op>(&self, key: Key) -> (i32, O) {
        let slot = self.slot(key.slot);
        debug_assert_eq!((slot.generation.get(), slot.state.get()), (key.generation, State::Done));
        let op = slot.op.take().expect("a live slot has an operation");
        let value = if Slot::is_inline::<O>() {
            // SAFETY: it was written there as an `O` (the caller's promise), and `op` was the only pointer to it.
            unsafe { op.cast::<O>().read() }
        } else {
            // SAFETY: it was boxed as an `O` in `insert`.
            *unsafe { Box::from_raw(op.cast::<O>().as_ptr()) }
        };
        let result = slot.result.get();
        self.free(key);
        (result, value)
    }

    /// Drops an operation that nobody waits for any more, after its final completion.
    pub(crate) fn remove(&self, key: Key) {
        /// Frees the slot, whatever the destructor of the operation does.
        struct Free<'a>(&'a Table, Key);
        impl Drop for Free<'_> {
            fn drop(&mut self) {
                self.0.free(self.1);
            }
        }
        let Some(slot) = self.live(key) else { return };
        let _free = Free(self, key);
        drop(slot.waker.take());
        if let Some(op) = slot.op.take() {
            if slot.is_in_storage(op) {
                // SAFETY: `op` points to a live operation in the storage, and nobody else has a pointer to it now.
                unsafe { op.drop_in_place() };
            } else {
                // SAFETY: it was boxed in `insert`.
                drop(unsafe { Box::from_raw(op.as_ptr()) });
            }
        }
    }

    fn free(&self, key: Key) {
        let slot = self.slot(key.slot);
        slot.state.set(State::Free);
        slot.generation.set(slot.generation.get().wrapping_add(1) & GENERATION_MASK);
        slot.next_free.set(self.first_free.replace(key.slot));
    }

    /// The future that waited is gone.
    pub(crate) fn detach(&self, key: Key) {
        if let Some(slot) = self.live(key) {
            debug_assert_eq!(slot.state.get(), State::Attached);
            slot.state.set(State::Detached);
            drop(slot.waker.take());
        }
    }

    /// The keys of all operations in flight.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let slots = (self.pages().len() * PAGE) as u32;
        let key = |index| Key { slot: index, generation: self.slot(index).generation.get() };
        (0..slots)
            .map(key)
            .filter(|key| matches!(self.state(*key), State::Attached | State::Detached))
            .collect()
    }
}
