//! Runs a program that the kernel denies io_uring, as many container sandboxes do.
//!
//! `deny-io-uring [--errno EPERM|ENOSYS] PROGRAM [ARGUMENT]...` installs a seccomp filter, which the program and
//! all its children inherit, and becomes that program. It needs no privilege. `deny-io-uring --probe` only says
//! how io_uring_setup answers here.

use std::ffi::OsString;
use std::io;
use std::mem::offset_of;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};

const USAGE: &str =
    "usage: deny-io-uring [--errno EPERM|ENOSYS] PROGRAM [ARGUMENT]... | deny-io-uring --probe";

// The audit names of linux/audit.h: ELF machine | 64 bit | little endian.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 62 | 0x8000_0000 | 0x4000_0000;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 183 | 0x8000_0000 | 0x4000_0000;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("deny-io-uring knows the audit architecture of x86_64 and aarch64 only");

// io_uring_setup, _enter and _register have the same three consecutive numbers on every architecture here.
const FIRST: u32 = libc::SYS_io_uring_setup as u32;
const LAST: u32 = libc::SYS_io_uring_register as u32;

/// The x32 ABI of x86_64 has the same architecture and sets this bit in the number: it is denied just so.
const X32_BIT: u32 = 0x4000_0000;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|argument| argument == "--probe").is_some() {
        println!("{}", probe());
        return ExitCode::SUCCESS;
    }
    let mut errno = libc::EPERM;
    if arguments.next_if(|argument| argument == "--errno").is_some() {
        errno = match arguments.next().as_deref().and_then(|name| name.to_str()) {
            Some("EPERM") => libc::EPERM,
            Some("ENOSYS") => libc::ENOSYS,
            _ => return complain("--errno needs EPERM or ENOSYS", 2),
        };
    }
    let Some(program) = arguments.next().filter(|name| !name.as_encoded_bytes().starts_with(b"-")) else {
        return complain(USAGE, 2);
    };
    if let Err(error) = deny(errno) {
        return complain(&format!("cannot install the seccomp filter: {error}"), 1);
    }
    // `exec` returns only if it failed; 127 is what a shell answers then.
    let error = Command::new(&program).args(arguments.collect::<Vec<OsString>>()).exec();
    complain(&format!("cannot run {}: {error}", program.display()), 127)
}

fn complain(sentence: &str, code: u8) -> ExitCode {
    eprintln!("deny-io-uring: {sentence}");
    ExitCode::from(code)
}

/// Lets the three system calls of io_uring answer `errno`, in this process and all that it starts.
fn deny(errno: i32) -> io::Result<()> {
    let filter = filter(errno as u32);
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // Without privilege a filter is allowed only to those who give up gaining privilege by exec.
    // SAFETY: PR_SET_NO_NEW_PRIVS takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    // SAFETY: the kernel copies `program` and the `filter` it points to before the call returns; both are alive.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) })
}

fn check(answer: libc::c_long) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A jump counts the instructions that it skips.
fn filter(errno: u32) -> [libc::sock_filter; 9] {
    let architecture = offset_of!(libc::seccomp_data, arch) as u32;
    let number = offset_of!(libc::seccomp_data, nr) as u32;
    [
        step(BPF_LD | BPF_W | BPF_ABS, architecture, 0, 0),
        step(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0),
        // Numbers of a foreign architecture mean something else: no such program is run here.
        step(BPF_RET | BPF_K, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
        step(BPF_LD | BPF_W | BPF_ABS, number, 0, 0),
        step(BPF_ALU | BPF_AND | BPF_K, !X32_BIT, 0, 0),
        step(BPF_JMP | BPF_JGE | BPF_K, FIRST, 0, 2),
        step(BPF_JMP | BPF_JGT | BPF_K, LAST, 1, 0),
        step(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | errno, 0, 0),
        step(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ]
}

fn step(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// How io_uring_setup answers: `EPERM`, `ENOSYS`, or something that shows that it is not denied.
fn probe() -> String {
    // No entries and no parameters: where the call is allowed it fails as EFAULT or EINVAL and makes nothing.
    // SAFETY: a null pointer is refused by the kernel, not followed.
    let answer = unsafe { libc::syscall(libc::SYS_io_uring_setup, 0, std::ptr::null::<u8>()) };
    match check(answer).map_err(|error| error.raw_os_error()) {
        Err(Some(libc::EPERM)) => "EPERM".into(),
        Err(Some(libc::ENOSYS)) => "ENOSYS".into(),
        other => format!("allowed ({other:?})"),
    }
}
