//! The timers of a loop: a heap of deadlines, four children to a node, whose entries know their places.
//!
//! Inserting and cancelling are O(log n), and O(1) for the usual case, a deadline later than most. A million timers
//! take about 70 MB. Equal deadlines fire in the order in which they were made.

use std::time::Instant;

use slab::Slab;

/// Names one timer: a stale key hits nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimerKey {
    slot: u32,
    number: u64,
}

/// What happens at a deadline.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// A future waits for it, in this wait. It takes the timer out before it ends the wait.
    Wait(u32),
    /// The callback of this slot becomes ready.
    Call(u32),
    /// The scope of this slot is cancelled. It takes the timer out before it leaves its slot.
    Scope(u32),
}

struct Timer {
    number: u64,
    place: u32,
    target: Target,
}

#[derive(Clone, Copy)]
struct Node {
    at: Instant,
    /// Breaks ties: the order of insertion.
    number: u64,
    slot: u32,
}

impl Node {
    fn is_before(&self, other: &Self) -> bool {
        (self.at, self.number) < (other.at, other.number)
    }
}

#[derive(Default)]
pub(crate) struct Timers {
    heap: Vec<Node>,
    timers: Slab<Timer>,
    made: u64,
}

const CHILDREN: usize = 4;

impl Timers {
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|node| node.at)
    }

    pub(crate) fn insert(&mut self, at: Instant, target: Target) -> TimerKey {
        self.made += 1;
        let number = self.made;
        let place = self.heap.len();
        let slot = self.timers.insert(Timer { number, place: place as u32, target }) as u32;
        self.heap.push(Node { at, number, slot });
        self.rise(place);
        TimerKey { slot, number }
    }

    fn timer(&mut self, key: TimerKey) -> Option<&mut Timer> {
        self.timers.get_mut(key.slot as usize).filter(|timer| timer.number == key.number)
    }

    /// Whether the timer is still to fire.
    pub(crate) fn contains(&self, key: TimerKey) -> bool {
        self.timers.get(key.slot as usize).is_some_and(|timer| timer.number == key.number)
    }

    /// Takes a timer out before it fired.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<Target> {
        let place = self.timer(key)?.place as usize;
        Some(self.remove(place))
    }

    /// Takes out the first timer that is due at `now`.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Target> {
        (self.next()? <= now).then(|| self.remove(0))
    }

    pub(crate) fn clear(&mut self) {
        self.heap.clear();
        self.timers.clear();
    }

    fn remove(&mut self, place: usize) -> Target {
        let node = self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.note(place);
            self.rise(place);
            self.sink(place);
        }
        self.timers.remove(node.slot as usize).target
    }

    /// Writes down where the node at `place` is.
    fn note(&mut self, place: usize) {
        let slot = self.heap[place].slot as usize;
        self.timers[slot].place = place as u32;
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / CHILDREN;
            if !self.heap[place].is_before(&self.heap[parent]) {
                break;
            }
            self.heap.swap(place, parent);
            self.note(place);
            place = parent;
        }
        self.note(place);
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let first = place * CHILDREN + 1;
            let children = first..(first + CHILDREN).min(self.heap.len());
            let Some(least) = children.min_by_key(|child| (self.heap[*child].at, self.heap[*child].number))
            else {
                break;
            };
            if !self.heap[least].is_before(&self.heap[place]) {
                break;
            }
            self.heap.swap(place, least);
            self.note(place);
            place = least;
        }
        self.note(place);
    }
}

#[cfg(test)]
mod tests {
    use super::{Target, Timers};
    use std::time::{Duration, Instant};

    /// A plain model: a sorted list.
    #[test]
    fn fires_in_the_order_of_deadline_and_then_of_insertion_under_random_cancels() {
        let start = Instant::now();
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut timers = Timers::default();
        let mut model = Vec::new();
        for call in 0..5000_u32 {
            let at = start + Duration::from_nanos(random(300));
            model.push((at, call, timers.insert(at, Target::Call(call))));
            if random(3) == 0 {
                let (_, _, key) = model.swap_remove(random(model.len() as u64) as usize);
                assert!(timers.cancel(key).is_some());
                assert!(timers.cancel(key).is_none(), "a key is good once");
            }
        }
        model.sort_by_key(|(at, call, _)| (*at, *call));
        assert_eq!(timers.len(), model.len());
        for (at, call, _) in model {
            assert_eq!(timers.next(), Some(at));
            assert!(timers.take_due(at - Duration::from_nanos(1)).is_none());
            assert!(matches!(timers.take_due(at), Some(Target::Call(c)) if c == call));
        }
        assert_eq!(timers.len(), 0);
    }
}
