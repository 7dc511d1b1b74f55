//! Waiting until a descriptor can be read.

use std::cell::Cell;
use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;

use crate::driver::{Aftermath, Answer, Attempt, Features, Op, Route, Step};
use crate::op::Descriptor;
use crate::sys::socket;

/// Raises a flag when the descriptor can be read: `IORING_OP_POLL_ADD` (5.1), once.
pub(crate) struct PollReadable {
    descriptor: Rc<Descriptor>,
    flag: Rc<Cell<bool>>,
}

impl PollReadable {
    pub(crate) fn new(descriptor: Rc<Descriptor>, flag: Rc<Cell<bool>>) -> Self {
        Self { descriptor, flag }
    }
}

impl Op for PollReadable {
    fn prepare(&mut self, _: &Features) -> Option<Entry> {
        Some(opcode::PollAdd::new(Fd(self.descriptor.number()), libc::POLLIN as u32).build())
    }

    fn route(&self) -> Route {
        Route::Readable(self.descriptor.number())
    }

    fn attempt(&mut self) -> Attempt {
        match socket::poll_now(self.descriptor.number(), libc::POLLIN) {
            0 => Attempt::Wait,
            result => Attempt::from_result(result),
        }
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        // An error too: whoever looks at the flag looks at the descriptor then, and asks again.
        if answer.result != -libc::ECANCELED {
            self.flag.set(true);
        }
        Step::Done(answer.result)
    }
}
