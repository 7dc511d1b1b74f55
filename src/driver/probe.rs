//! Finds out what the ring of this kernel can do, by trying: never by the kernel's version.
#![allow(unsafe_code)]
//!
//! # Safety
//! The trials run on a small ring of their own, and wait for each completion before what it points to goes away.

use std::env;
use std::io;
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::Fd;
use io_uring::{Probe, cqueue, opcode};

use crate::sys::ring::{BufferRing, Cqe, Ring, Setup};

/// What the drivers may use. Everything is off on the epoll driver.
#[derive(Debug, Clone, Default)]
pub(crate) struct Features {
    pub(crate) setup: Setup,
    /// A successful completion can be left out.
    pub(crate) cqe_skip: bool,
    /// `MSG_WAITALL` loses nothing when it is cancelled (6.0; it came together with SEND_ZC).
    pub(crate) lossless_waitall: bool,
    pub(crate) multishot_accept: bool,
    /// Multishot receive into a ring of provided buffers.
    pub(crate) multishot_receive: bool,
    pub(crate) sync_cancel: bool,
    /// A plain send can name where it goes (6.1; it came together with SENDMSG_ZC).
    pub(crate) send_to: bool,
    /// Pipes are made by the ring (6.16).
    pub(crate) pipe_op: bool,
    no_iowait: bool,
    ext_arg: bool,
    nodrop: bool,
    linked_file: bool,
    native_workers: bool,
    resource_tags: bool,
    socket_op: bool,
    msg_ring: bool,
}

impl Features {
    /// 6.1-class kernels and later: here the ring is the faster driver, and cancelling loses nothing.
    ///
    /// Before, each completion interrupts the task instead of waiting for the loop's next call (`DEFER_TASKRUN`), every
    /// receive takes a poll before it and twice the calls (multishot receive; `costs::a_turn_of_the_loop_is_one_enter`
    /// counts them), a cancelled `MSG_WAITALL` loses what it had moved, shutdown cancels one by one, and a kernel that
    /// cannot make a thread waits for ever: plain operations are no faster than epoll, and less is sure. What came
    /// together with these features is asked for one by one, and replaced where a distribution broke it.
    pub(crate) fn is_modern(&self) -> bool {
        self.setup.single_issuer
            && self.setup.defer_taskrun
            && self.ext_arg
            && self.nodrop
            && self.cqe_skip
            && self.linked_file
            && self.socket_op
            && self.msg_ring
    }

    /// What the ring driver cannot do without: waits with a time limit, workers that are threads of this process, the
    /// io_uring of 5.13 and later, and completions that are never dropped. Debian 11's 5.10 has it all (it carries the
    /// io_uring of 5.15), the first 5.10 of kernel.org does not.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let needed = [
            (self.ext_arg, "EXT_ARG"),
            (self.native_workers, "NATIVE_WORKERS"),
            (self.resource_tags, "RSRC_TAGS"),
            (self.nodrop, "NODROP"),
        ];
        needed.iter().find(|(present, _)| !present).map(|(_, name)| *name)
    }

    /// Names of features, and whether they are there.
    pub(crate) fn list(&self) -> Vec<(&'static str, bool)> {
        let mut list = vec![
            ("SINGLE_ISSUER", self.setup.single_issuer),
            ("DEFER_TASKRUN", self.setup.defer_taskrun),
            ("TASKRUN_FLAG", self.setup.taskrun_flag),
            ("SUBMIT_ALL", self.setup.submit_all),
            ("NO_SQARRAY", self.setup.no_sqarray),
            ("EXT_ARG", self.ext_arg),
            ("NODROP", self.nodrop),
            ("NATIVE_WORKERS", self.native_workers),
            ("RSRC_TAGS", self.resource_tags),
            ("CQE_SKIP", self.cqe_skip),
            ("LINKED_FILE", self.linked_file),
            ("NO_IOWAIT", self.no_iowait),
            ("SYNC_CANCEL", self.sync_cancel),
            ("multishot accept", self.multishot_accept),
            ("multishot receive", self.multishot_receive),
            ("lossless WAITALL", self.lossless_waitall),
            ("addressed SEND", self.send_to),
            ("PIPE", self.pipe_op),
            ("MSG_RING", self.msg_ring),
        ];
        if !self.setup.defer_taskrun {
            list.push(("COOP_TASKRUN", self.setup.coop_taskrun)); // its lesser substitute
        }
        list
    }
}

/// The outcome for this process; asked of the kernel once, but for a passing lack of descriptors or memory, which is
/// asked again.
pub(crate) fn features() -> io::Result<&'static Features> {
    /// The features, or the errno of a lasting refusal.
    static FOUND: OnceLock<Result<Features, i32>> = OnceLock::new();
    let outcome = match FOUND.get() {
        Some(outcome) => outcome,
        None => {
            let looked = look();
            match looked.map_err(|e| (e.raw_os_error(), e)) {
                Ok(features) => FOUND.get_or_init(|| Ok(features)),
                Err((Some(errno), e)) if is_passing(&e) => return Err(io::Error::from_raw_os_error(errno)),
                Err((errno, _)) => FOUND.get_or_init(|| Err(errno.unwrap_or(libc::EIO))),
            }
        }
    };
    outcome.as_ref().map_err(|errno| io::Error::from_raw_os_error(*errno))
}

/// Whether trying again later may help.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN | libc::ENOBUFS)
    )
}

/// The flag sets worth having, best first.
fn ladder() -> [Setup; 5] {
    let plain = Setup::default();
    let all = Setup { submit_all: true, ..plain };
    let coop = Setup { coop_taskrun: true, taskrun_flag: true, ..all };
    let defer = Setup { single_issuer: true, defer_taskrun: true, taskrun_flag: true, ..all };
    [Setup { no_sqarray: true, ..defer }, defer, coop, all, plain]
}

/// Features that the person who runs the program does not want: names as in the report, separated by commas.
fn unwanted() -> Vec<String> {
    let names = env::var("PROACTOR_WITHOUT").unwrap_or_default();
    names.split(',').map(canonical).filter(|name| !name.is_empty()).collect()
}

/// `multishot receive`, `multishot-receive` and `MULTISHOT_RECEIVE` are the same.
fn canonical(name: &str) -> String {
    name.trim().to_lowercase().replace([' ', '-'], "_")
}

impl Features {
    /// Switches off what is not wanted, to find out whether it is to blame, or to test what replaces it.
    fn without(mut self, names: &[String]) -> Self {
        let setup = &mut self.setup;
        for (name, present) in [
            ("SINGLE_ISSUER", &mut setup.single_issuer),
            ("DEFER_TASKRUN", &mut setup.defer_taskrun),
            ("COOP_TASKRUN", &mut setup.coop_taskrun),
            ("TASKRUN_FLAG", &mut setup.taskrun_flag),
            ("SUBMIT_ALL", &mut setup.submit_all),
            ("NO_SQARRAY", &mut setup.no_sqarray),
            ("EXT_ARG", &mut self.ext_arg),
            ("NODROP", &mut self.nodrop),
            ("NATIVE_WORKERS", &mut self.native_workers),
            ("RSRC_TAGS", &mut self.resource_tags),
            ("CQE_SKIP", &mut self.cqe_skip),
            ("SYNC_CANCEL", &mut self.sync_cancel),
            ("multishot accept", &mut self.multishot_accept),
            ("multishot receive", &mut self.multishot_receive),
            ("lossless WAITALL", &mut self.lossless_waitall),
            ("addressed SEND", &mut self.send_to),
            ("PIPE", &mut self.pipe_op),
        ] {
            *present &= !names.contains(&canonical(name));
        }
        // The kernel accepts these together only.
        setup.defer_taskrun &= setup.single_issuer;
        setup.taskrun_flag &= setup.defer_taskrun || setup.coop_taskrun;
        self
    }
}

fn look() -> io::Result<Features> {
    let mut refused = io::Error::from_raw_os_error(libc::EINVAL);
    let (setup, mut ring) = 'found: {
        for setup in ladder() {
            match Ring::new(4, 16, setup) {
                Ok(ring) => break 'found (setup, ring),
                // EINVAL does not say which flag.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => refused = e,
                Err(e) => return Err(e),
            }
        }
        return Err(refused);
    };
    // io_uring_enter can be denied though io_uring_setup was not.
    one(&mut ring, opcode::Nop::new().build())?;
    let probe = ring.probe()?;
    let has = |code: u8| probe.is_supported(code);
    let params = ring.params();
    let mut features = Features {
        setup,
        cqe_skip: params.is_feature_skip_cqe_on_success(),
        ext_arg: params.is_feature_ext_arg(),
        nodrop: params.is_feature_nodrop(),
        linked_file: params.is_feature_linked_file(),
        native_workers: params.is_feature_native_workers(),
        resource_tags: params.is_feature_resource_tagging(),
        no_iowait: params.is_feature_no_iowait(),
        socket_op: has(opcode::Socket::CODE),
        msg_ring: has(opcode::MsgRingData::CODE),
        lossless_waitall: has(opcode::SendZc::CODE),
        pipe_op: has(opcode::Pipe::CODE),
        send_to: has(opcode::SendMsgZc::CODE),
        multishot_accept: false,
        multishot_receive: false,
        sync_cancel: ring
            .cancel_all(Duration::ZERO)
            .map_or_else(|e| e.raw_os_error() == Some(libc::ENOENT), |()| true),
    };
    features.multishot_accept = or_absent(try_multishot_accept(&mut ring, &probe))?;
    features.multishot_receive = or_absent(try_multishot_receive(&mut ring))?;
    Ok(features.without(&unwanted()))
}

/// A trial that was refused says that the feature is absent; one that could not be made says nothing.
fn or_absent(trial: io::Result<bool>) -> io::Result<bool> {
    match trial {
        Err(e) if is_passing(&e) => Err(e),
        other => Ok(other.unwrap_or(false)),
    }
}

/// Submits one operation and waits for its first completion.
fn one(ring: &mut Ring, entry: Entry) -> io::Result<Cqe> {
    let mut cqes = Vec::new();
    // SAFETY: the callers keep what the entry points to until they have its final completion.
    if !unsafe { ring.push(&entry) } {
        return Err(io::Error::other("the submission queue of a new ring is full"));
    }
    while cqes.is_empty() {
        match ring.enter(1, true) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            _ => ring.reap(1, |cqe| cqes.push(cqe)),
        }
    }
    Ok(cqes[0])
}

/// An unconnected socket refuses to accept; which errno it is tells whether the flag was understood: before 5.19 the
/// flag itself is refused, as an unknown one is (EINVAL), while a datagram socket's answer is EOPNOTSUPP.
fn try_multishot_accept(ring: &mut Ring, probe: &Probe) -> io::Result<bool> {
    let socket = match UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::1]:0")) {
        Ok(socket) => socket,
        Err(e) if is_passing(&e) => return Err(e),
        // No network here: the opcode that came with it tells.
        Err(_) => return Ok(probe.is_supported(opcode::Socket::CODE)),
    };
    let entry = opcode::AcceptMulti::new(Fd(socket.as_raw_fd())).build();
    Ok(one(ring, entry)?.result == -libc::EOPNOTSUPP)
}

/// Receives one byte from a socket pair through a buffer ring; it works if the kernel says that more may come.
fn try_multishot_receive(ring: &mut Ring) -> io::Result<bool> {
    let (receiver, mut sender) = UnixStream::pair()?;
    let mut buffer = vec![0_u8; 64];
    let mut buffers: BufferRing = ring.register_buffer_ring(1, 0)?;
    buffers.put(0, buffer.as_mut_ptr(), buffer.len());
    buffers.publish();
    sender.write_all(b"x")?;
    let first = one(ring, opcode::RecvMulti::new(Fd(receiver.as_raw_fd()), 0).build());
    let works = first.as_ref().is_ok_and(|cqe| cqe.result == 1 && cqueue::more(cqe.flags));
    if works {
        // The end of the stream is its final completion; only then may the buffer go.
        drop(sender);
        let mut cqes = Vec::new();
        while cqes.is_empty() {
            match ring.enter(1, true) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => ring.reap(1, |cqe| cqes.push(cqe)),
            }
        }
    }
    ring.unregister_buffer_ring(0);
    drop(buffers);
    Ok(works)
}
