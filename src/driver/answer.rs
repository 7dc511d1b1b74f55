//! What comes back: the completions of operations, and what an attempt on the epoll driver led to.

use io_uring::cqueue;

use crate::buf::BufferId;

/// One completion of an operation. Its flags are those of the ring's completions, on every driver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// What the call returned, or a negative errno.
    pub(crate) result: i32,
    flags: u32,
}

/// `IORING_CQE_F_BUFFER`: the upper half of the flags is the buffer's number.
const BUFFER: u32 = 1;
/// `IORING_CQE_F_MORE`
const MORE: u32 = 2;

impl Answer {
    #[inline]
    pub(crate) const fn new(result: i32, flags: u32) -> Self {
        Self { result, flags }
    }

    #[inline]
    pub(crate) const fn once(result: i32) -> Self {
        Self::new(result, 0)
    }

    /// One of several, in a pooled buffer if it names one.
    #[inline]
    pub(crate) fn one_of_many(result: i32, buffer: Option<BufferId>) -> Self {
        Self::new(result, MORE | buffer.map_or(0, |id| BUFFER | u32::from(id) << 16))
    }

    /// The same, and no further one will come.
    pub(crate) fn last(self) -> Self {
        Self { flags: self.flags & !MORE, ..self }
    }

    /// The same, as the answer to a cancel.
    pub(crate) fn cancelled(self) -> Self {
        Self { result: -libc::ECANCELED, ..self }
    }

    /// The pooled buffer that was filled, or that was chosen for a receive that failed.
    #[inline]
    pub(crate) fn buffer(self) -> Option<BufferId> {
        cqueue::buffer_select(self.flags)
    }

    /// Further completions will come.
    #[inline]
    pub(crate) fn more(self) -> bool {
        cqueue::more(self.flags)
    }

    pub(crate) fn is_interruption(self) -> bool {
        // -512 to -516 are ERESTARTSYS and its kin, which io_uring lets out for cancelled splices.
        !self.more() && matches!(-self.result, libc::EINTR | libc::EAGAIN | 512..=516)
    }
}

/// What an attempt on the epoll driver led to.
#[derive(Debug)]
pub(crate) enum Attempt {
    Complete(Answer),
    /// As `Complete`, and it took all there was: the next one has to wait for readiness.
    Drained(Answer),
    /// Not ready: wait on the route.
    Wait,
    /// Ready, but the operation cannot take more in this turn.
    Later,
    /// Ready; its resource is to be told, and takes what there is when somebody asks for it. `again`: it was told before, and
    /// nobody did.
    Tell {
        again: bool,
    },
}

impl Attempt {
    /// From the result of a non-blocking call.
    #[inline]
    pub(crate) fn from_result(result: i32) -> Self {
        match -result {
            libc::EAGAIN => Self::Wait,
            libc::EINTR => Self::Later,
            _ => Self::Complete(Answer::once(result)),
        }
    }
}
