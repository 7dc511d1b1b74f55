"""Files out of Debian packages of any suite, without installing anything."""

import contextlib
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# One-line and deb822 sources; what is not Debian's main archive (updates, security, others) is left out.
ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)$")

ARCHIVE = "http://archive.debian.org/debian"

# What a guest loads: TLS, and the ciphers that it asks for by names that are no names of modules. They have changed theirs.
MODULES = ("tls", "gcm", "ctr", "ghash_generic", "chacha20poly1305", "chacha_generic", "chacha", "poly1305_generic")


class Trouble(Exception):
    """Something that the person who runs the matrix has to mend."""


def codename():
    release = dict(
        line.rstrip().split("=", 1) for line in open("/etc/os-release", encoding="utf-8") if "=" in line
    )
    if release.get("ID", "").strip('"') != "debian":
        raise Trouble("kernels come from Debian's packages, by apt: on another distribution use Docker, without --host")
    return release["VERSION_CODENAME"].strip('"')


def own_source():
    """URI and options of this machine's own Debian source: whatever mirror it uses is the one that works here."""
    here = codename()
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
        if path.suffix == ".list":
            for match in filter(None, map(ONE_LINE.match, text.splitlines())):
                if match["suite"] == here:
                    signed = re.search(r"signed-by=(\S+)", match["options"] or "")
                    return match["uri"], f"Signed-By: {signed[1]}\n" if signed else ""
        for stanza in re.split(r"\n\s*\n", text):
            fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.M))
            if here in fields.get("Suites", "").split():
                signed = fields.get("Signed-By")
                return fields["URIs"].split()[0], f"Signed-By: {signed}\n" if signed else ""
    raise Trouble(f"no apt source of this machine names the suite {here}: cannot derive other suites from it")


class Suite:
    """A private apt directory for one suite."""

    def __init__(self, name, cache):
        self.name = name
        root = (cache / "apt" / name).resolve()
        for part in ("lists/partial", "cache/archives/partial", "sources"):
            (root / part).mkdir(parents=True, exist_ok=True)
        self.source = root / "sources/suite.sources"
        self.options = [
            "-oDir::Etc::SourceList=/dev/null",
            f"-oDir::Etc::SourceParts={root}/sources",
            f"-oDir::State::Lists={root}/lists",
            f"-oDir::Cache={root}/cache",
            # The lists of packages are all that is needed: neither translations nor file contents.
            "-oAcquire::Languages=none",
            # A mirror that does not answer, or has not all of it, is an error, and soon.
            "-oAcquire::http::Timeout=30",
            "-oAcquire::https::Timeout=30",
            "-oAcquire::Retries=2",
            "-oAPT::Update::Error-Mode=any",
            "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "-oAcquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
            # apt's own user cannot write into a directory of ours.
            "-oAPT::Sandbox::User=",
            "-oAPT::Architecture=amd64",
        ]
        self.updated = False

    def apt(self, tool, *arguments, cwd=None):
        command = [tool, *self.options, *arguments]
        try:
            # The timeouts of apt itself are for a mirror that is silent, this one is for a mirror that crawls.
            done = subprocess.run(command, cwd=cwd, text=True, capture_output=True, timeout=600)
        except subprocess.TimeoutExpired:
            raise Trouble(f"{tool} {arguments[0]} ({self.name}) takes more than ten minutes") from None
        if done.returncode != 0:
            raise Trouble(f"{tool} {arguments[0]} ({self.name}) failed:\n{done.stderr.strip()}")
        return done.stdout

    def update(self):
        """Fetches the list of packages: from the mirror, or where suites go when they are old.

        A mirror that is behind serves a list whose time has run out; its signature is checked all the same, and a
        kernel of some weeks ago will do.
        """
        if self.updated:
            return
        uri, signed = own_source()
        stanza = f"Types: deb\nSuites: {self.name}\nComponents: main\n{signed}"
        old = "Check-Valid-Until: no\n"
        troubles = []
        for source in (f"URIs: {uri}\n", f"URIs: {uri}\n{old}", f"URIs: {ARCHIVE}\n{old}"):
            self.source.write_text(source + stanza)
            try:
                self.apt("apt-get", "update", "-q")
                break
            except Trouble as trouble:
                troubles.append(str(trouble))
        else:
            raise Trouble("\nand ".join(troubles))
        self.updated = True

    def matching(self, pattern):
        """The packages whose names match."""
        self.update()
        return [line.split()[0] for line in self.apt("apt-cache", "search", "--names-only", pattern).splitlines()]

    def newest(self, pattern):
        """The newest package whose name matches, by the numbers in its name."""
        names = self.matching(pattern)
        if not names:
            raise Trouble(f"{self.name} has no package {pattern}")
        return max(names, key=lambda name: ([int(number) for number in re.findall(r"\d+", name)], name))

    @contextlib.contextmanager
    def unpacked(self, *packages):
        """A folder with the files of these packages, for a while."""
        self.update()
        with tempfile.TemporaryDirectory(dir=self.source.parent.parent) as folder:
            for package in packages:
                self.apt("apt-get", "download", "-q", package, cwd=folder)
            for deb in Path(folder).glob("*.deb"):
                subprocess.run(["dpkg-deb", "--extract", deb, f"{folder}/x"], check=True)
            yield Path(folder, "x")


def only(folder, pattern):
    found = [path for path in folder.rglob("*") if re.search(pattern, str(path))]
    if len(found) != 1:
        raise Trouble(f"there are {len(found)} files {pattern} where there should be one")
    return found[0]


def keep(path, target):
    """Whole or not at all: the cache is trusted by what is there."""
    part = target.with_suffix(".part")
    shutil.copy(path, part)
    os.replace(part, target)


def read_module(path):
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def keep_modules(folder, target):
    """The modules that tests need, and what these need, named so that they load in the order of their names."""
    name = lambda path: path.name.split(".")[0].replace("-", "_")
    found = {name(path): path for path in folder.rglob("*") if re.search(r"\.ko(\.xz)?$", path.name)}
    ordered = {}

    def add(wanted):
        # What is not there is part of the kernel, or this kernel does not have it.
        if wanted in ordered or wanted not in found:
            return
        module = read_module(found[wanted])
        needs = re.search(rb"\0depends=([^\0]*)\0", module)
        for other in filter(None, needs[1].decode().split(",") if needs else []):
            add(other.replace("-", "_"))
        ordered[wanted] = module

    for wanted in MODULES if "tls" in found else []:
        add(wanted)
    shutil.rmtree(target, ignore_errors=True)
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for number, (wanted, module) in enumerate(ordered.items()):
        (part / f"{number:02}-{wanted}.ko").write_bytes(module)
    os.replace(part, target)


def modules_of(image):
    """Where the modules of a kernel are kept."""
    return image.parent / "modules" / image.name


def kernel(suite, version, cache, refresh=False):
    """The newest cloud kernel of `suite` whose version begins so: its image and its full version."""
    folder = cache / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    have = [path for path in folder.glob(f"{suite}_{version}*") if modules_of(path).is_dir()]
    have.sort(key=lambda path: path.stat().st_mtime)
    if have and not refresh:
        return have[-1], have[-1].name.split("_", 1)[1]
    source = Suite(suite, cache)
    package = source.newest(rf"^linux-image-{re.escape(version)}[0-9.+a-z-]*-cloud-amd64$")
    full = package.removeprefix("linux-image-").removesuffix("-cloud-amd64")
    target = folder / f"{suite}_{full}"
    if target not in have:
        # Newer kernels are in several packages.
        parts = source.matching(rf"^linux-(image|binary|modules)-{re.escape(full)}-cloud-amd64$")
        with source.unpacked(*parts) as unpacked:
            keep_modules(unpacked, modules_of(target))
            keep(only(unpacked, r"/vmlinuz[^/]*$"), target)
    return target, full


def busybox(cache):
    target = cache / "busybox"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with Suite(codename(), cache).unpacked("busybox-static") as unpacked:
            keep(only(unpacked, r"/bin/busybox$"), target)
    return target


def main(cache, what, *arguments):
    """`packages.py CACHE busybox | kernel SUITE VERSION [--newer]` prints where it is, and a kernel's version."""
    cache = Path(cache)
    if what == "busybox":
        print(busybox(cache))
    else:
        suite, version, *newer = arguments
        print(*kernel(suite, version, cache, bool(newer)), sep="\t")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Trouble as trouble:
        sys.exit(f"ci/kernel-matrix: {trouble}")
