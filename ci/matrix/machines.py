"""Machines to run the suite on: guests of QEMU, and this one behind a seccomp filter; in Docker or without."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import packages
from packages import Trouble
from results import Listener
from rows import MATRIX

HERE = Path(__file__).resolve().parent
IMAGE = "proactor-kernel-matrix"

# Without a line of output for so long a machine is taken for hung: a test's own limit is shorter, so that it can fail
# by itself.
SILENCE = 400
# Nothing lives longer than this, even if this script is killed.
LIMIT = 3600


class Tools:
    """Where QEMU and apt are: on this machine, or in a container of our image."""

    def __init__(self, cache, docker):
        self.cache = cache
        self.docker = docker
        self.accelerator = "tcg,thread=multi"
        # By this the containers of this run are found; and the image that has nothing but the programs.
        self.label = f"--label={IMAGE}={os.getpid()}"
        self.suite = f"{IMAGE}-suite:{os.getpid()}"
        self.imported = False

    def clean(self):
        """Ends the containers that are left: to end `docker run` does not always end what it runs."""
        if self.docker:
            find = ["docker", "ps", "--quiet", "--filter", self.label.removeprefix("--")]
            left = subprocess.run(find, text=True, capture_output=True).stdout.split()
            if left:
                subprocess.run(["docker", "kill", *left], capture_output=True)
            if self.imported:
                subprocess.run(["docker", "image", "rm", "--force", self.suite], capture_output=True)

    def prepare(self):
        """Makes sure that QEMU is there. Docker's own cache sees to it that only changes are built."""
        if not self.docker:
            if not shutil.which("qemu-system-x86_64"):
                raise Trouble("there is no qemu-system-x86_64 here: install Debian's package qemu-system-x86")
            return
        base = "debian:bookworm-slim"
        if subprocess.run(["docker", "version"], capture_output=True).returncode != 0:
            raise Trouble("no Docker daemon answers; --host does the same with this machine's QEMU")
        if subprocess.run(["docker", "image", "inspect", base], capture_output=True).returncode != 0:
            if subprocess.run(["docker", "pull", "--quiet", base]).returncode != 0:
                self.bootstrap(base)
        print("building the image, if it is not there yet", flush=True)
        command = ["docker", "build", "--quiet", "--network=host", "--tag", IMAGE, str(HERE)]
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
            raise Trouble(f"{shlex.join(command)} failed")

    def bootstrap(self, base):
        """Where no registry of images can be reached, Debian's archive makes the same image."""
        print(f"cannot pull {base}: making it with debootstrap", flush=True)
        if not shutil.which("debootstrap"):
            raise Trouble(f"{base} can neither be pulled nor made: there is no debootstrap here")
        root = self.cache / "debootstrap"
        # What an interrupted one has left.
        remove = ["rm", "-rf", "--one-file-system", root]
        subprocess.run(remove, check=True)
        uri, _ = packages.own_source()
        make = ["debootstrap", "--variant=minbase", "bookworm", root, uri]
        if subprocess.run(make, stdout=subprocess.DEVNULL).returncode != 0:
            raise Trouble(f"{base} can neither be pulled nor made: debootstrap failed, see {root}/debootstrap")
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(["docker", "import", "-", base], stdin=tar.stdout, check=True)
        subprocess.run(remove, check=True)

    def wrap(self, command, *options):
        if not self.docker:
            return command
        mounts = [f"--volume={self.cache}:{self.cache}", f"--volume={HERE}:{HERE}:ro"]
        user = f"--user={os.getuid()}:{os.getgid()}"
        run = ["docker", "run", "--rm", "--init", "--interactive", self.label, "--network=host", user]
        return [*run, *mounts, *options, IMAGE, *command]

    def packages(self, *arguments):
        """Runs packages.py, which prints what it found."""
        command = self.wrap(["python3", "-B", str(HERE / "packages.py"), str(self.cache), *arguments])
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE)
        if done.returncode != 0:
            raise Trouble(f"{arguments[0]} cannot be had from Debian's packages: see above")
        return done.stdout.split("\n")[0].split("\t")

    def guest(self, where, kernel, initrd, console):
        # Without the string instructions that copy bytes the kernel copies words, which is less to emulate. And
        # Debian 12's QEMU now and then corrupts the flags of an emulated cmpxchg16b, and the guest's kernel dies of a
        # double fault in its allocator. Kernels do without that instruction where the processor has none.
        cpu = "host" if self.accelerator == "kvm" else "max,-cx16,-erms,-fsrm"
        command = ["timeout", "--kill-after=10", str(LIMIT), "qemu-system-x86_64"]
        command += ["-accel", self.accelerator, "-cpu", cpu]
        command += ["-smp", str(where.cpus), "-m", str(where.mebibytes), "-display", "none", "-no-reboot", "-nic", "none"]
        command += ["-serial", f"file:{console}", "-serial", "stdio", "-kernel", str(kernel), "-initrd", str(initrd)]
        # The processor's random numbers are good enough for tests, and there at once.
        # A kernel that tests whether its timer ticks takes an emulated machine that has to wait for a broken one.
        command += ["-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on no_timer_check"]
        return self.wrap(command, *(["--device=/dev/kvm"] if self.accelerator == "kvm" else []))

    def here(self, where, root, job):
        """The same job on this machine's own kernel, behind a filter that denies io_uring."""
        if not self.docker:
            program = [str(root / "deny-io-uring"), "--errno", where.denied, "sh", "-c"]
            return ["timeout", "--kill-after=10", str(LIMIT), *program, steps(root, job)]
        profile = self.cache / f"seccomp-{where.denied}.json"
        answer = {"names": ["io_uring_setup", "io_uring_enter", "io_uring_register"], "action": "SCMP_ACT_ERRNO"}
        answer["errnoRet"] = {"EPERM": 1, "ENOSYS": 38}[where.denied]
        profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [answer]}))
        self.import_suite(root)
        options = [f"--security-opt=seccomp={profile}", "--tmpfs=/tmp:exec,mode=1777"]
        # Loopback only, but that with both versions of IP.
        options += ["--network=none", "--sysctl=net.ipv6.conf.all.disable_ipv6=0"]
        shell = ["/bin/busybox", "timeout", str(LIMIT), "/bin/busybox", "sh", "-c"]
        # Docker carries the two outputs separately, and a skip is to be seen where it happened.
        install = "exec 2>&1; /bin/busybox --install -s /bin; export PATH=/bin; "
        run = ["docker", "run", "--rm", "--init", self.label, *options, self.suite]
        return [*run, *shell, install + steps("", job)]

    def import_suite(self, root):
        """The programs bring their own libraries: the container is what the guests unpack."""
        if not self.imported:
            with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
                load = ["docker", "import", "-", self.suite]
                subprocess.run(load, stdin=tar.stdout, stdout=subprocess.DEVNULL, check=True)
            self.imported = True


def steps(root, job):
    """A job as a guest's init runs it."""
    root = shlex.quote(str(root))
    return f"root={root}; . {root}/steps\n{job}echo '@@ done'"


def kvm_works(tools, kernel, initrd):
    """A device that opens is not enough: some virtual machines fail at a guest's first unusual instruction."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    before, tools.accelerator = tools.accelerator, "kvm"
    command = tools.guest(MATRIX[0], kernel, initrd, tools.cache / "kvm.console")
    tools.accelerator = before
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    except subprocess.TimeoutExpired:
        return False
    return b"@@ done" in done.stdout


class Machine:
    """One row while it runs: a process whose output is the machine's."""

    def __init__(self, outcome, command, log):
        self.outcome = outcome
        self.listener = Listener(outcome)
        self.log = open(log, "wb", buffering=0)
        self.rest = b""
        self.began = self.heard = time.monotonic()
        self.asked = False
        # In a session of its own: an interrupt from the terminal reaches this script, which ends what it has started.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )

    def state(self):
        listener = self.listener
        step = listener.step or ("booting" if not listener.steps else "")
        seconds = time.monotonic() - self.began
        return f"{self.outcome.where.name} {seconds:.0f} s {step} {len(listener.found) or ''} {listener.running}"

    def read(self):
        """Takes what is there; false at the end."""
        data = os.read(self.process.stdout.fileno(), 65536)
        if not data:
            return False
        self.log.write(data)
        if not self.asked:
            self.heard = time.monotonic()
        *lines, self.rest = (self.rest + data.replace(b"\r", b"")).split(b"\n")
        for line in lines:
            self.listener.line(line.decode(errors="replace"))
        if match := re.match(rb"test (\S+) \.\.\. $", self.rest):
            self.listener.begin(match[1].decode())
        return True

    def is_hung(self):
        """Silence is first answered by a question, whose answer goes to the log: what is everybody waiting for?"""
        silent = time.monotonic() - self.heard
        if silent > SILENCE and not self.asked:
            self.asked = True
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(b"\n")
                self.process.stdin.flush()
        if silent > SILENCE + 10:
            self.outcome.wrong.append(f"silent for {SILENCE} s: taken for hung and ended")
            return True
        return False

    def end(self):
        """Ends the machine, if it is still there, and everything that belongs to it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(3)
                break
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()
        self.outcome.seconds = time.monotonic() - self.began
