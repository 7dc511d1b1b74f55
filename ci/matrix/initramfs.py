"""The file system of a guest: what the tests need to run, as a folder and as the archive that a kernel unpacks."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path


def stage(root, programs, busybox, scripts):
    """Puts the programs, their shared libraries, a shell and the scripts into the folder `root`."""
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("bin", "etc", "tmp", "proc", "sys", "dev"):
        (root / folder).mkdir(parents=True)
    for name, path in programs.items():
        shutil.copy(path, root / name)
        # Symbols stay, for backtraces; what debuggers want is six times as big as the rest.
        subprocess.run(["strip", "--strip-debug", root / name], check=False, stderr=subprocess.DEVNULL)
        for library in libraries(path):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(library), target)
    shutil.copy(busybox, root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    (root / "bin/sh").symlink_to("busybox")
    for path in scripts:
        shutil.copy(path, root / path.name)
    (root / "etc/passwd").write_text("root:x:0:0::/tmp:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")


def libraries(program):
    """The paths at which the loader, and what it loads, are looked for."""
    listed = subprocess.run(["ldd", program], text=True, capture_output=True, check=True).stdout
    return re.findall(r"(?:=> |^\s*)(/\S+) \(", listed, re.M)


def cpio(entries):
    """An archive in the "newc" format; entries are (name, mode, bytes), with the device's numbers for a device."""
    archive = bytearray()

    def add(number, name, mode, data, device=(0, 0)):
        name = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        archive.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
        archive.extend(b"\0" * (-len(archive) % 4) + data)
        archive.extend(b"\0" * (-len(archive) % 4))

    for number, entry in enumerate(entries, 1):
        add(number, *entry)
    add(0, "TRAILER!!!", 0, b"")
    return bytes(archive)


def pack(root):
    """The folder as an archive: everything belongs to root, and there is a console."""
    entries = []
    for path in sorted(Path(root).rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            data = os.readlink(path).encode()
        else:
            data = path.read_bytes() if path.is_file() else b""
        entries.append((str(path.relative_to(root)), mode, data))
    entries.append(("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)))
    return cpio(entries)


def job(script, modules=()):
    """What one guest shall do, and the modules of its kernel: an archive to be appended to the common one."""
    entries = [("job", stat.S_IFREG | 0o644, script.encode())]
    entries += [("modules", stat.S_IFDIR | 0o755, b"")]
    entries += [(f"modules/{path.name}", stat.S_IFREG | 0o644, path.read_bytes()) for path in sorted(modules)]
    return cpio(entries)
