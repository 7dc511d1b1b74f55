//! What a loop has done so far, in numbers.

/// Opcodes are below this.
pub(crate) const OPCODES: usize = 64;

/// Counts of one loop since it began; see [`metrics`](crate::metrics).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Metrics {
    /// `io_uring_enter` or `epoll_wait` calls.
    pub enters: u64,
    /// Completions delivered.
    pub completions: u64,
    /// After how many enters completions waited in the kernel, since the ring's queue for them was full.
    pub overflows: u64,
    /// Operations accepted that have no final completion yet, and functions in threads that somebody waits for.
    pub in_flight: usize,
    /// Receive buffers there are.
    pub buffers_total: usize,
    /// Receive buffers that chunks hold.
    pub buffers_in_use: usize,
    /// Tasks that have not ended.
    pub tasks: usize,
    /// Timers that have not fired.
    pub timers: usize,
    /// Cancel scopes, one for each task among them.
    pub scopes: usize,
    /// Places where a future waits.
    pub waits: usize,
    pub(crate) submitted: [u64; OPCODES],
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            enters: 0,
            completions: 0,
            overflows: 0,
            in_flight: 0,
            buffers_total: 0,
            buffers_in_use: 0,
            tasks: 0,
            timers: 0,
            scopes: 0,
            waits: 0,
            submitted: [0; OPCODES],
        }
    }
}

/// The kernel's names of the opcodes, as in `io_uring_enter(2)`, in lower case.
const NAMES: [&str; 46] = [
    "nop",
    "readv",
    "writev",
    "fsync",
    "read_fixed",
    "write_fixed",
    "poll_add",
    "poll_remove",
    "sync_file_range",
    "sendmsg",
    "recvmsg",
    "timeout",
    "timeout_remove",
    "accept",
    "async_cancel",
    "link_timeout",
    "connect",
    "fallocate",
    "openat",
    "close",
    "files_update",
    "statx",
    "read",
    "write",
    "fadvise",
    "madvise",
    "send",
    "recv",
    "openat2",
    "epoll_ctl",
    "splice",
    "provide_buffers",
    "remove_buffers",
    "tee",
    "shutdown",
    "renameat",
    "unlinkat",
    "mkdirat",
    "symlinkat",
    "linkat",
    "msg_ring",
    "fsetxattr",
    "setxattr",
    "fgetxattr",
    "getxattr",
    "socket",
];

impl Metrics {
    /// Submission queue entries by opcode name (`accept`, `recv`, `send`, `timeout`, `close` …), those above zero.
    /// Empty on the epoll driver, which submits nothing.
    pub fn submitted(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.submitted
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(opcode, count)| (NAMES.get(opcode).copied().unwrap_or("other"), *count))
    }

    /// How many entries of one opcode were submitted.
    pub fn submitted_of(&self, name: &str) -> u64 {
        self.submitted().find(|(n, _)| *n == name).map_or(0, |(_, count)| count)
    }
}
