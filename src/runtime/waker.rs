//! Aftermath without a count: loop, slot and generation in one word, so that cloning and dropping one costs nothing.
#![allow(unsafe_code)]
//!
//! # Safety
//! The data word of these wakers is a number, never dereferenced; the functions of the table accept any number, from
//! any thread, at any time.

use std::task::{RawWaker, RawWakerVTable, Waker};

use crate::runtime::{core, remote};

const SLOT_BITS: u32 = 26;
const GENERATION_BITS: u32 = 26;

/// The number of loops that can exist at a time: what is left of the word.
pub(crate) const LOOPS_MAX: usize = 1 << (64 - SLOT_BITS - GENERATION_BITS);
/// The number of tasks that a loop can have at a time.
pub(crate) const TASKS_MAX: usize = 1 << SLOT_BITS;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("proactor packs the address of a task into 64 bits and needs a 64-bit target");

/// Names a task: its loop, its slot there, and which of the slot's tasks it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskKey {
    pub(crate) loop_id: u16,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl TaskKey {
    pub(crate) const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

    pub(crate) const fn to_bits(self) -> u64 {
        (self.loop_id as u64) << (SLOT_BITS + GENERATION_BITS)
            | (self.slot as u64) << GENERATION_BITS
            | self.generation as u64
    }

    const fn from_bits(bits: u64) -> Self {
        Self {
            loop_id: (bits >> (SLOT_BITS + GENERATION_BITS)) as u16,
            slot: (bits >> GENERATION_BITS) as u32 & ((1 << SLOT_BITS) - 1),
            generation: bits as u32 & Self::GENERATION_MASK,
        }
    }

    /// A waker that makes the task ready. It may outlive the task and the loop: then it does nothing, or causes one
    /// poll that was not needed.
    pub(crate) fn waker(self) -> Waker {
        // SAFETY: see the top of this file.
        unsafe { Waker::from_raw(raw(self.to_bits())) }
    }
}

/// As cloning it, without a detour if it is one of these.
#[inline]
pub(crate) fn clone(waker: &Waker) -> Waker {
    if std::ptr::eq(waker.vtable(), &raw const TABLE) {
        // SAFETY: see the top of this file.
        unsafe { Waker::from_raw(RawWaker::new(waker.data(), &TABLE)) }
    } else {
        waker.clone()
    }
}

/// Whether this is the waker of the task with this data word.
#[inline]
pub(crate) fn is_waker_of(waker: &Waker, bits: u64) -> bool {
    waker.data().addr() as u64 == bits && std::ptr::eq(waker.vtable(), &raw const TABLE)
}

const fn raw(bits: u64) -> RawWaker {
    RawWaker::new(std::ptr::without_provenance(bits as usize), &TABLE)
}

static TABLE: RawWakerVTable = RawWakerVTable::new(
    |data| raw(data.addr() as u64),
    |data| wake(data.addr() as u64),
    |data| wake(data.addr() as u64),
    |_| (),
);

#[inline]
fn wake(bits: u64) {
    let key = TaskKey::from_bits(bits);
    if !core::wake_here(key) {
        remote::wake(key);
    }
}
