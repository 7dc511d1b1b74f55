"""The rows of the matrix, and what is done in each."""

import shlex
from dataclasses import dataclass

# Tests that are not run in guests, by a part of their name, and why.
LEFT_OUT = {
    "tidy::": "reads the sources, which a guest does not have; it says nothing about kernels",
    "interop::": "speaks with OpenSSL and Python, which a guest does not have; it says nothing about kernels",
    "load::": "under emulation a connection takes ten milliseconds, and a few of them at a time are in other tests",
}

# The share of their repetitions that tests do in a guest which repeat something thousands of times (`many` in
# uring-tests/harness.rs): under emulation each takes some twenty times as long.
LOAD = 0.05

OTHER = {"io_uring": "epoll", "epoll": "io_uring"}


@dataclass
class Where:
    """A row of the matrix: a machine to run the suite on, and what is expected there."""

    name: str
    about: str
    # The Debian suite, and how the version of its kernel begins; None is this machine's own kernel.
    kernel: tuple[str, str] | None
    # What `auto` has to choose, and whether the ring has to work when it is asked for by name.
    auto: str
    ring: bool = True
    # Shell: what is done once before, and what the programs are run through.
    before: str = ""
    through: str = ""
    cpus: int = 2
    mebibytes: int = 1536
    # So many tests may skip. With a ring it is the one that needs strace, which no machine here has, and as it has no
    # half for each driver it is run twice. Without a ring it is that one and two more, beside the ring's half of the
    # suite, which must skip as a whole. Where the kernel has no TLS, as Debian 11's, or Debian has not its modules any
    # more, as of 6.19, there are ten more for each driver.
    skips: int = 2
    # The errno of a seccomp filter.
    denied: str | None = None


MATRIX = [
    Where("5.10", "Debian 11", ("bullseye", "5.10."), auto="epoll", skips=22),
    Where("6.1", "Debian 12", ("bookworm", "6.1."), auto="io_uring"),
    Where("6.12", "Debian 13", ("trixie", "6.12."), auto="io_uring"),
    Where("6.x", "Debian 13 backports, the newest 6", ("trixie-backports", "6."), auto="io_uring", skips=22),
    Where("7.x", "Debian testing, the newest", ("forky", "7."), auto="io_uring"),
    Where("disabled", "6.12 with kernel.io_uring_disabled=2", ("trixie", "6.12."), auto="epoll", ring=False,
          skips=3, before="sysctl -w kernel.io_uring_disabled=2"),
    # These kernels charge a ring's memory to the limit again; an ordinary user has no way around it.
    Where("memlock", "the newest 6, a user with RLIMIT_MEMLOCK=0", ("trixie-backports", "6."), auto="epoll", ring=False,
          skips=13, before="ulimit -l 0", through="as_user"),
    # 256 MiB beside its file system, which is in memory too. All tests are one process: what glibc keeps for the threads
    # of the earlier ones, some 150 MiB in the end, is not there for the later ones.
    Where("small", "6.12 with 1 CPU, 256 MiB, 64 descriptors", ("trixie", "6.12."), auto="io_uring", skips=42,
          before="export MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=131072 MALLOC_MMAP_THRESHOLD_=65536; ulimit -n 64",
          cpus=1, mebibytes=256 + 72),
    Where("EPERM", "this kernel, seccomp answers EPERM", None, auto="epoll", ring=False, skips=13, denied="EPERM"),
    Where("ENOSYS", "this kernel, seccomp answers ENOSYS", None, auto="epoll", ring=False, skips=13, denied="ENOSYS"),
]


# What a quick run leaves out besides: epoll is the same in all of these kernels, and what only waits for other tasks
# of its loop asks the kernel for nothing.
NOT_QUICK = {"::epoll::": "a quick run", "sync::": "a quick run"}


def left_out(quick):
    return LEFT_OUT | (NOT_QUICK if quick else {})


def script(where, test_filter, quick):
    """The job of one machine, in shell: the report, the suite, and what depends on `auto` with the other driver."""
    arguments = ["--test-threads=1", *(f"--skip={name}" for name in left_out(quick))]
    arguments += [test_filter] if test_filter else []
    run = f"$as $root/uring-tests {shlex.join(arguments)}"
    require = "URING_TESTS_REQUIRE=io_uring" if where.ring else ""
    # Emulated machines are that much slower; with a test's own limit of two minutes, it is also what a hang takes.
    slower = f"export URING_TESTS_SLOWER=3 URING_TESTS_LOAD={LOAD}" if where.kernel else ""
    lines = [
        slower,
        where.before,
        f"as={shlex.quote(where.through)}",
        "step report report",
        f"(export URING_TESTS_EXPECT_AUTO={where.auto} {require}; step suite {run})",
    ]
    if where.ring:
        other = OTHER[where.auto]
        export = f"export URING_TESTS_EXPECT_AUTO={other} PROACTOR_DRIVER={other}"
        lines.append(f"({export}; step forced {run} --skip=::uring:: --skip=::epoll::)")
    return "\n".join(lines) + "\n"
