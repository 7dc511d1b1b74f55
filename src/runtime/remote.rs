//! The one door into a loop from other threads: which tasks were woken there, and calls to make.
#![allow(unsafe_code)]
//!
//! # Safety
//! A [`Remote`] is made once, never freed, and used again by later loops, so wakers of any age may look it up by
//! number. The pages of its bitmap are likewise never freed.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::driver::alarm::Alarm;
use crate::error::Closed;
use crate::runtime::waker::{LOOPS_MAX, TaskKey};

/// A call that another thread wants the loop to make.
pub(crate) type Call = Box<dyn FnOnce() + Send>;

/// 64 words of 64 bits.
type Page = [AtomicU64; 64];

/// Which tasks were woken by other threads: a bitmap of three levels, so that a wake is at most three atomic
/// operations, coalesces with earlier ones, needs no memory, and a look at nothing costs one load (C11).
///
/// It has a bit for each of the first 2^18 slots; beyond that, slots share bits, and sharing costs a poll too many.
struct Woken {
    pages: AtomicU64,
    words: [AtomicU64; 64],
    bits: [AtomicPtr<Page>; 64],
}

/// How many slots have a bit of their own.
pub(crate) const BITS: u32 = 64 * 64 * 64;

impl Woken {
    const fn new() -> Self {
        Self {
            pages: AtomicU64::new(0),
            words: [const { AtomicU64::new(0) }; 64],
            bits: [const { AtomicPtr::new(std::ptr::null_mut()) }; 64],
        }
    }

    fn page(&self, page: usize) -> Option<&Page> {
        // SAFETY: null, or a page that `ensure` leaked.
        unsafe { self.bits[page].load(Ordering::Acquire).as_ref() }
    }

    /// Makes room for `slot`. Called by the loop's thread before a waker for the slot exists.
    fn ensure(&self, slot: u32) {
        let page = (slot % BITS) as usize >> 12;
        if self.page(page).is_none() {
            let fresh = Box::leak(Box::new([const { AtomicU64::new(0) }; 64]));
            self.bits[page].store(fresh, Ordering::Release);
        }
    }

    fn set(&self, slot: u32) {
        let index = (slot % BITS) as usize;
        let (page, word, bit) = (index >> 12, index >> 6 & 63, index & 63);
        let Some(words) = self.page(page) else { return }; // no task ever had this slot
        // Each level is set after the one below, so whoever clears a level finds what led to it.
        if words[word].fetch_or(1 << bit, Ordering::SeqCst) & (1 << bit) != 0 {
            return;
        }
        if self.words[page].fetch_or(1 << word, Ordering::SeqCst) & (1 << word) != 0 {
            return;
        }
        self.pages.fetch_or(1 << page, Ordering::SeqCst);
    }

    fn take(&self, mut each: impl FnMut(u32)) {
        for page in ones(self.pages.swap(0, Ordering::SeqCst)) {
            for word in ones(self.words[page].swap(0, Ordering::SeqCst)) {
                let Some(words) = self.page(page) else { continue };
                for bit in ones(words[word].swap(0, Ordering::SeqCst)) {
                    each((page << 12 | word << 6 | bit) as u32);
                }
            }
        }
    }
}

/// The positions of the bits that are set.
fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let position = word.trailing_zeros() as usize;
        (position < 64).then(|| {
            word &= word - 1;
            position
        })
    })
}

#[derive(Default)]
struct Calls {
    /// Which of the loops that used this door it is; odd while one is open.
    epoch: u64,
    queue: VecDeque<Call>,
}

/// The door of one loop at a time.
pub(crate) struct Remote {
    pub(crate) id: u16,
    pub(crate) alarm: Alarm,
    woken: Woken,
    calls: Mutex<Calls>,
}

/// All doors by number, for wakers.
static DOORS: [AtomicPtr<Remote>; LOOPS_MAX] = [const { AtomicPtr::new(std::ptr::null_mut()) }; LOOPS_MAX];
/// Doors that no loop uses, and how many there are in all.
static SPARE: Mutex<(Vec<&'static Remote>, usize)> = Mutex::new((Vec::new(), 0));

fn door(id: u16) -> Option<&'static Remote> {
    // SAFETY: null, or a `Remote` that `open` leaked.
    unsafe { DOORS.get(usize::from(id))?.load(Ordering::Acquire).as_ref() }
}

/// Wakes a task of a loop on another thread.
pub(crate) fn wake(key: TaskKey) {
    if let Some(remote) = door(key.loop_id) {
        remote.woken.set(key.slot);
        remote.alarm.ring();
    }
}

impl Remote {
    /// A door for a new loop, and the epoch that its handles carry.
    pub(crate) fn open() -> io::Result<(&'static Self, u64)> {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let remote = match spare.0.pop() {
            Some(remote) => remote,
            None if spare.1 == LOOPS_MAX => {
                return Err(io::Error::other(format!("{LOOPS_MAX} event loops exist already; close some")));
            }
            None => {
                let id = spare.1 as u16;
                let fresh = Box::leak(Box::new(Self {
                    id,
                    alarm: Alarm::new(),
                    woken: Woken::new(),
                    calls: Mutex::default(),
                }));
                DOORS[spare.1].store(fresh, Ordering::Release);
                spare.1 += 1;
                fresh
            }
        };
        let mut calls = remote.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.epoch += 1;
        let epoch = calls.epoch;
        drop(calls);
        Ok((remote, epoch))
    }

    /// The loop is gone: later calls are refused, later wakes do nothing. The calls that were not made are returned,
    /// to be dropped where no lock is held.
    pub(crate) fn close(&'static self) -> VecDeque<Call> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.epoch += 1;
        let left = std::mem::take(&mut calls.queue);
        drop(calls);
        self.woken.take(|_| ());
        SPARE.lock().unwrap_or_else(PoisonError::into_inner).0.push(self);
        left
    }

    pub(crate) fn is_open(&self, epoch: u64) -> bool {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).epoch == epoch
    }

    pub(crate) fn ensure(&self, slot: u32) {
        self.woken.ensure(slot);
    }

    /// Queues a call for the loop of `epoch`.
    pub(crate) fn call(&self, epoch: u64, call: Call) -> Result<(), Closed> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.epoch != epoch {
            drop(calls);
            return Err(Closed::new("the event loop"));
        }
        calls.queue.push_back(call);
        drop(calls);
        self.alarm.ring();
        Ok(())
    }

    /// Takes what other threads left since the last time.
    pub(crate) fn take(&self, woken: impl FnMut(u32)) -> VecDeque<Call> {
        self.woken.take(woken);
        std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner).queue)
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("id", &self.id).finish_non_exhaustive()
    }
}
