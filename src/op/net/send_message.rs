//! Sending messages, whole, with an address and control messages.
#![allow(unsafe_code)]
//!
//! # Safety
//! As in `op`: each operation owns what its submission points to, or holds a reference to the resource that does.

use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;
use socket2::SockAddr;

use crate::buf::IoBuf;
use crate::driver::{Aftermath, Answer, Attempt, Features, Op, Route, Step};
use crate::op::Descriptor;
use crate::op::net::send_flags;
use crate::sys::file::LEN_MAX;
use crate::sys::message::{self, Header};
use crate::sys::socket;

/// A socket that sends messages.
pub(crate) trait MessageSender: 'static {
    fn descriptor(&self) -> &Descriptor;
    /// A send is over whose future is gone, or which never had one.
    fn send_over(&self, envelope: Box<Envelope>, len: usize, result: i32, after: &mut Aftermath);
    /// A send is over that a future waits for, which may come to fetch the result much later.
    fn came_back(&self, envelope: &Envelope, after: &mut Aftermath);
    /// Whether the socket knows no messages: a part may go first, and the rest has to follow.
    fn sends_parts(&self) -> bool;
    /// Whether the ring must not wait for room by itself. Of a UNIX datagram it has taken the bytes by then, and what it
    /// sends when there is room is empty (seen on 6.18).
    fn must_not_wait(&self) -> bool;
    /// Whether this errno may be what became of an earlier datagram, and is told elsewhere.
    fn is_of_another(&self, errno: i32) -> bool;
}

/// Everything of a message but its bytes. Reused by its socket.
pub(crate) struct Envelope {
    header: Header,
    pub(crate) address: Option<SockAddr>,
    pub(crate) control: Vec<usize>,
    sent: usize,
    /// It was refused once, perhaps for another one.
    was_refused: bool,
    /// On the ring: it waits for room, and is sent then.
    polls: bool,
    /// The queue of the one who was addressed was full, and no readiness tells when it is not: try again a little later.
    pub(crate) is_queue_full: bool,
    /// No other one of its socket that needs it too is sent at the same time.
    pub(crate) needs_turn: bool,
    /// It is over, and its socket knows.
    pub(crate) came_back: bool,
    /// It was written, no future waits for it: its place in the list of those.
    pub(crate) written: Option<usize>,
}

impl Envelope {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            header: Header::new(),
            address: None,
            control: Vec::new(),
            sent: 0,
            was_refused: false,
            polls: false,
            is_queue_full: false,
            needs_turn: false,
            came_back: false,
            written: None,
        })
    }

    pub(crate) fn clear(&mut self) {
        self.address = None;
        self.control.clear();
        (self.sent, self.was_refused, self.polls) = (0, false, false);
        (self.is_queue_full, self.needs_turn, self.came_back) = (false, false, false);
        self.written = None;
    }
}

/// A buffer, and the descriptors that go with it: they stay open until it was sent.
pub(crate) struct WithFds<B> {
    pub(crate) buf: B,
    pub(crate) fds: Vec<OwnedFd>,
}

// SAFETY: the bytes are those of `buf`, which keeps the promise.
unsafe impl<B: IoBuf> IoBuf for WithFds<B> {
    fn as_ptr(&self) -> *const u8 {
        self.buf.as_ptr()
    }

    fn len(&self) -> usize {
        self.buf.len()
    }
}

impl<B> WithFds<B> {
    /// Appends the control message that passes the descriptors on.
    pub(crate) fn write_rights(&self, control: &mut Vec<usize>) {
        let numbers = self.fds.iter().flat_map(|fd| fd.as_raw_fd().to_ne_bytes());
        message::push_control(control, libc::SOL_SOCKET, libc::SCM_RIGHTS, numbers);
    }
}

/// Sends a message: `IORING_OP_SEND` (5.6; to an address 6.1), with control messages, or before that, `IORING_OP_SENDMSG`
/// (5.3).
pub(crate) struct SendMessage<T: MessageSender, B: IoBuf> {
    target: Rc<T>,
    envelope: Option<Box<Envelope>>,
    buf: B,
}

impl<T: MessageSender, B: IoBuf> SendMessage<T, B> {
    /// There was no room.
    fn wait_for_room(&mut self) -> Step {
        let envelope = self.envelope();
        if envelope.address.is_some() {
            envelope.is_queue_full = true;
            return Step::Done(-libc::ENOBUFS);
        }
        envelope.polls = true;
        Step::Again
    }

    pub(crate) fn new(target: Rc<T>, envelope: Box<Envelope>, buf: B) -> Self {
        Self { target, envelope: Some(envelope), buf }
    }

    /// The envelope, the buffer, and how many bytes of it were sent.
    pub(crate) fn into_parts(mut self) -> (Box<Envelope>, B, usize) {
        let envelope = self.envelope.take().expect("it is only taken when it is settled");
        let sent = envelope.sent;
        (envelope, self.buf, sent)
    }

    fn fd(&self) -> i32 {
        self.target.descriptor().number()
    }

    fn envelope(&mut self) -> &mut Envelope {
        self.envelope.as_mut().expect("it is only taken when it is settled")
    }

    fn rest(&mut self) -> (*const u8, usize) {
        let sent = self.envelope().sent;
        // SAFETY: `sent` is at most the length.
        let address = unsafe { self.buf.as_ptr().add(sent) };
        (address, (self.buf.len() - sent).min(LEN_MAX))
    }

    /// The header of what is left. Control messages go with the first part.
    fn header(&mut self) -> *const libc::msghdr {
        let (bytes, len) = self.rest();
        let Envelope { header, address, control, sent, .. } = self.envelope();
        header.set_bytes(bytes.cast_mut(), len);
        match address {
            Some(address) => header.set_name(address.as_ptr().cast_mut().cast(), address.len() as usize),
            None => header.set_name(std::ptr::null_mut(), 0),
        }
        let control_len = if *sent == 0 { size_of_val(&control[..]) } else { 0 };
        header.set_control(control.as_mut_ptr().cast(), control_len);
        header.complete()
    }
}

impl<T: MessageSender, B: IoBuf> Op for SendMessage<T, B> {
    fn prepare(&mut self, features: &Features) -> Option<Entry> {
        let (fd, parts) = (Fd(self.fd()), self.target.sends_parts());
        let mut flags = if parts { send_flags(features) } else { libc::MSG_NOSIGNAL };
        if self.target.must_not_wait() {
            flags |= libc::MSG_DONTWAIT;
        }
        let (bytes, len) = self.rest();
        let envelope = self.envelope();
        if envelope.polls {
            return Some(opcode::PollAdd::new(fd, libc::POLLOUT as u32).build());
        }
        let is_plain = envelope.control.is_empty() && (envelope.address.is_none() || features.send_to);
        Some(if is_plain {
            let send = opcode::Send::new(fd, bytes, len as u32).flags(flags);
            match &envelope.address {
                Some(address) => send.dest_addr(address.as_ptr().cast()).dest_addr_len(address.len()).build(),
                None => send.build(),
            }
        } else {
            opcode::SendMsg::new(fd, self.header()).flags(flags as u32).build()
        })
    }

    fn route(&self) -> Route {
        // Whether a UNIX socket can be written says nothing of those that are addressed.
        match self.envelope.as_ref().and_then(|envelope| envelope.address.as_ref()) {
            Some(address) if address.is_unix() => Route::Now,
            _ => Route::Writable(self.target.descriptor().number()),
        }
    }

    fn attempt(&mut self) -> Attempt {
        let (fd, (bytes, len)) = (self.fd(), self.rest());
        let envelope = self.envelope();
        let result = if envelope.control.is_empty() {
            // SAFETY: the buffer is ours and has `len` more bytes.
            unsafe { message::send_to(fd, bytes, len, envelope.address.as_ref()) }
        } else {
            // SAFETY: the header and what it points to are ours.
            unsafe { socket::sendmsg(fd, self.header()) }
        };
        let envelope = self.envelope();
        if -result == libc::EAGAIN && envelope.address.as_ref().is_some_and(SockAddr::is_unix) {
            envelope.is_queue_full = true;
            return Attempt::Complete(Answer::once(-libc::ENOBUFS));
        }
        Attempt::from_result(result)
    }

    fn complete(&mut self, answer: Answer, _: &mut Aftermath) -> Step {
        let Ok(count) = usize::try_from(answer.result) else {
            return match answer.result {
                error if -error == libc::EAGAIN => self.wait_for_room(),
                _ if answer.is_interruption() => Step::Again,
                error if self.target.is_of_another(-error) && !self.envelope().was_refused => {
                    self.envelope().was_refused = true;
                    Step::Again
                }
                error => Step::Done(error),
            };
        };
        if std::mem::take(&mut self.envelope().polls) {
            return Step::Again;
        }
        self.envelope().sent += count;
        let left = self.buf.len() - self.envelope().sent;
        if left > 0 && count > 0 && self.target.sends_parts() { Step::Again } else { Step::Done(0) }
    }

    fn ended(&mut self, result: i32, after: &mut Aftermath) -> bool {
        // One that was cancelled half-way goes on if its future is dropped now, so it keeps its turn.
        if (result != -libc::ECANCELED || self.is_cancelled_by_drop())
            && let Some(envelope) = &mut self.envelope
        {
            envelope.came_back = true;
            self.target.came_back(envelope, after);
        }
        false // the envelope goes back
    }

    fn settle(&mut self, result: i32, after: &mut Aftermath) {
        if let Some(envelope) = self.envelope.take() {
            self.target.send_over(envelope, self.buf.len(), result, after);
        }
    }

    /// It waits for room itself.
    fn may_repeat(&self) -> bool {
        !self.target.must_not_wait()
    }

    /// Half of what goes into a stream must not stay unsent; a message goes whole or not at all.
    fn is_cancelled_by_drop(&self) -> bool {
        !self.target.sends_parts()
    }
}
