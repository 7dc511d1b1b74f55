//! What a channel holds, and who waits at it: all that happens under its lock. What would run foreign code there, wakers
//! to call or to drop, is returned instead.

use std::collections::VecDeque;
use std::task::Waker;

/// A place in a queue of those who wait; earlier ones are smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// What a receiver found.
pub(crate) enum Taken<T> {
    Item(T),
    Nothing,
    /// There will be no item any more.
    End,
}

pub(crate) struct Queue<T> {
    items: VecDeque<T>,
    capacity: usize,
    pub(crate) senders: usize,
    pub(crate) receivers: usize,
    /// By one of the sides, or since one of them is gone.
    closed: bool,
    /// Items that wait for room, in the order of their tickets; receivers take them from here.
    sending: VecDeque<(Ticket, T, Option<Waker>)>,
    /// Receivers that wait, in the order of their tickets. An item is announced to one by waking it; then it is not here
    /// any more, and owes a look.
    receiving: VecDeque<(Ticket, Option<Waker>)>,
    tickets: u64,
}

impl<T> Queue<T> {
    /// With one sender and one receiver.
    pub(crate) const fn new(capacity: usize) -> Self {
        Self {
            items: VecDeque::new(),
            capacity,
            senders: 1,
            receivers: 1,
            closed: false,
            sending: VecDeque::new(),
            receiving: VecDeque::new(),
            tickets: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    // ---- the sender's side ----

    /// Puts an item in if there is room or somebody waits for one; gives it back otherwise.
    pub(crate) fn put(&mut self, item: T) -> Result<Option<Waker>, T> {
        // Who waits already comes first.
        let has_room = self.items.len() < self.capacity && self.sending.is_empty();
        if self.closed || !has_room && self.receiving.is_empty() {
            return Err(item);
        }
        self.items.push_back(item);
        Ok(self.announce())
    }

    /// Makes an item wait for room.
    pub(crate) fn queue_up(&mut self, item: T) -> Ticket {
        let ticket = self.ticket();
        self.sending.push_back((ticket, item, None));
        ticket
    }

    fn find_sending(&self, ticket: Ticket) -> Option<usize> {
        self.sending.binary_search_by_key(&ticket, |(ticket, ..)| *ticket).ok()
    }

    /// Whether an item waits still; its sender's waker is exchanged for `waker`.
    pub(crate) fn wait_for_room(&mut self, ticket: Ticket, waker: &mut Option<Waker>) -> bool {
        let found = self.find_sending(ticket);
        if let Some(at) = found {
            std::mem::swap(&mut self.sending[at].2, waker);
        }
        found.is_some()
    }

    /// An item that waits, out of the queue, with its sender's waker.
    pub(crate) fn take_back(&mut self, ticket: Ticket) -> Option<(T, Option<Waker>)> {
        let at = self.find_sending(ticket)?;
        self.sending.remove(at).map(|(_, item, waker)| (item, waker))
    }

    // ---- the receiver's side ----

    /// Tells the next receiver in the queue to look.
    fn announce(&mut self) -> Option<Waker> {
        self.receiving.pop_front().and_then(|(_, waker)| waker)
    }

    /// Takes the next item, and lets the next sender's in; with who is to be woken.
    pub(crate) fn take(&mut self) -> (Taken<T>, Option<Waker>) {
        let first = self.items.pop_front();
        if first.is_some() && self.items.len() >= self.capacity {
            return (first.map_or(Taken::Nothing, Taken::Item), None);
        }
        let (next, waker) = match self.sending.pop_front() {
            Some((_, item, waker)) => (Some(item), waker),
            None => (None, None),
        };
        match first {
            Some(item) => {
                self.items.extend(next);
                (Taken::Item(item), waker)
            }
            None => match next {
                Some(item) => (Taken::Item(item), waker),
                None => (if self.closed { Taken::End } else { Taken::Nothing }, None),
            },
        }
    }

    /// As [`take`](Self::take); where there is nothing, waits for it: in its old place, if it had one.
    pub(crate) fn take_or_wait(
        &mut self,
        ticket: &mut Option<Ticket>,
        waker: &mut Option<Waker>,
    ) -> (Taken<T>, Option<Waker>) {
        let (taken, woken) = self.take();
        if let Taken::Nothing = taken {
            let place = match *ticket {
                Some(place) => place,
                None => *ticket.insert(self.ticket()),
            };
            match self.find_receiving(place) {
                Ok(at) => std::mem::swap(&mut self.receiving[at].1, waker),
                Err(at) => self.receiving.insert(at, (place, waker.take())),
            }
        } else if let Some(place) = ticket.take()
            && let Ok(at) = self.find_receiving(place)
        {
            // It found one before it was told to look.
            *waker = self.receiving.remove(at).and_then(|(_, old)| old);
        }
        (taken, woken)
    }

    fn find_receiving(&self, ticket: Ticket) -> Result<usize, usize> {
        self.receiving.binary_search_by_key(&ticket, |(ticket, _)| *ticket)
    }

    pub(crate) fn is_queued(&self, ticket: Ticket) -> bool {
        self.find_receiving(ticket).is_ok()
    }

    /// A receiver waits no more: returns its waker. If it was told to look, the next one is told instead.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> (Option<Waker>, Option<Waker>) {
        match self.find_receiving(ticket) {
            Ok(at) => (self.receiving.remove(at).and_then(|(_, waker)| waker), None),
            Err(_) if self.items.is_empty() && self.sending.is_empty() => (None, None),
            Err(_) => (None, self.announce()),
        }
    }

    // ---- the end ----

    /// Nothing is sent any more; returns all who wait. Items that wait for room are their senders' again.
    pub(crate) fn close(&mut self) -> Vec<Waker> {
        self.closed = true;
        let receiving = self.receiving.drain(..).filter_map(|(_, waker)| waker);
        let sending = self.sending.iter_mut().filter_map(|(.., waker)| waker.take());
        receiving.chain(sending).collect()
    }

    /// What it holds, for nobody.
    pub(crate) fn take_all(&mut self) -> VecDeque<T> {
        std::mem::take(&mut self.items)
    }
}
