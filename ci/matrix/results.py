"""What comes from a machine, and what is made of it: results by driver, complaints, the table."""

import re
import time
from dataclasses import dataclass, field

from rows import OTHER, Where


@dataclass
class Outcome:
    where: Where
    kernel: str = "?"
    auto: str = "?"
    features: list[str] = field(default_factory=list)
    # Driver -> result -> names of tests; a test without a variant for each driver runs on what `auto` takes.
    tests: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    # How long each test took, as seen from outside.
    took: dict[str, float] = field(default_factory=dict)
    # Whatever is wrong beside failed tests.
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0

    def count(self, result):
        return sum(len(row.get(result, [])) for row in self.tests.values())

    def skipped(self):
        """How many tests were skipped, beside those of a ring that is to be refused."""
        drivers = self.tests.items()
        return sum(len(row.get("skipped", [])) for driver, row in drivers if self.where.ring or driver == "epoll")

    def good(self):
        return not self.wrong and not self.count("failed")


class Listener:
    """Understands what comes from a machine, line by line."""

    TEST = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (.*)$")
    RESULT = re.compile(r"(ok|FAILED|ignored(?:, .*)?)$")
    WORDS = {"ok": "passed", "FAILED": "failed"}

    def __init__(self, outcome):
        self.outcome = outcome
        self.step = None
        self.steps = []
        self.found = {}
        self.running = ""
        self.since = 0.0
        self.skipped = False
        # What libtest counted; and whether it now repeats what failed tests, and programs that they started, have said.
        self.counted = None
        self.repeats = False
        self.done = False

    def begin(self, test):
        """A test has written its name: the end of the line comes with its result."""
        if test != self.running:
            self.running, self.since, self.skipped = test, time.monotonic(), False

    def line(self, line):
        out = self.outcome
        if line.startswith("@@ "):
            word, _, rest = line[3:].partition(" ")
            if word == "kernel":
                out.kernel = rest.split(",")[0].removesuffix("-cloud-amd64")
            elif word == "begin":
                self.step, self.found, self.counted, self.repeats = rest, {}, None, False
            elif word == "end":
                self.end(int(rest))
            elif word == "done":
                self.done = True
        elif self.step == "report":
            if match := re.match(r"driver: (\S+)", line):
                out.auto = match[1]
            if re.match(r"(driver|features|not here): ", line):
                out.features.append(line)
        elif match := re.match(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", line):
            self.counted = tuple(map(int, match.groups()))
        elif line == "failures:" and not self.running:
            self.repeats = True
        elif self.repeats:
            pass
        elif match := self.TEST.match(line):
            self.begin(match[1])
            self.result(match[2])
        elif re.match(r"SKIP \d+: ", line):
            self.skipped = True
        elif self.running:
            # A program that a test started can print between a test's name and its result.
            self.result(line)

    def result(self, text):
        if match := self.RESULT.search(text):
            result = self.WORDS.get(match[1], "skipped")
            self.found[self.running] = "skipped" if self.skipped and result == "passed" else result
            self.outcome.took[self.running] = time.monotonic() - self.since
            self.running = ""

    def end(self, status):
        out = self.outcome
        self.steps.append(self.step)
        if self.step == "report":
            if out.auto != out.where.auto:
                out.wrong.append(f"auto took {out.auto}, not {out.where.auto}")
        else:
            for name, result in self.found.items():
                self.file(name, result)
            results = list(self.found.values())
            if status != 0 and "failed" not in results:
                out.wrong.append(f"{self.step}: status {status} without a failed test")
            passed, failed, ignored = self.counted or (0, 0, 0)
            if results.count("failed") != failed or len(results) != passed + failed + ignored:
                out.wrong.append(f"{self.step}: libtest counted {self.counted}, the matrix {len(results)} tests")
        self.step = None

    def file(self, name, result):
        drivers = [driver for part, driver in (("::uring::", "io_uring"), ("::epoll::", "epoll")) if part in name]
        forced = self.step == "forced"
        auto = self.outcome.where.auto
        driver = drivers[0] if drivers else OTHER[auto] if forced else auto
        self.outcome.tests.setdefault(driver, {}).setdefault(result, []).append(name)

    def finish(self):
        """Judges what is there when the machine is gone."""
        out = self.outcome
        for name, result in self.found.items() if self.step else ():
            self.file(name, result)
        if self.running:
            out.wrong.append(f"{self.running} did not end")
        elif not self.steps and self.step is None:
            out.wrong.append("did not boot")
        elif not self.done:
            out.wrong.append(f"ended in {self.step or 'the middle'}")
        for step in ["report", "suite"] + (["forced"] if out.where.ring else []):
            if self.done and step not in self.steps:
                out.wrong.append(f"{step} was not run")
        if out.skipped() > out.where.skips:
            out.wrong.append(f"{out.skipped()} tests were skipped, {out.where.skips} may be")
        if not out.where.ring and (there := len(out.tests.get("io_uring", {}).get("passed", []))):
            out.wrong.append(f"{there} tests ran on io_uring, which is to be refused here")
        if self.done and not (out.count("passed") or out.count("failed")):
            out.wrong.append("no test ran")


def table(outcomes):
    rows = [("where", "kernel", "driver", "passed", "failed", "skipped", "auto", "seconds")]
    rows.append(tuple("-" * 3 for _ in rows[0]))
    for outcome in outcomes:
        for number, driver in enumerate(("io_uring", "epoll")):
            results = outcome.tests.get(driver, {})
            counts = [str(len(results.get(word, []))) for word in ("passed", "failed", "skipped")]
            first = (outcome.where.name, outcome.kernel) if number == 0 else ("", "")
            last = (outcome.auto, f"{outcome.seconds:.0f}") if number == 0 else ("", "")
            rows.append((*first, driver, *counts, *last))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        fill = "-" if row[0] == "---" else " "
        cells = (cell.ljust(width, fill) for cell, width in zip(row, widths))
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for outcome in outcomes:
        beside = "" if outcome.where.ring else ", beside those of the ring"
        allowed = f"{outcome.skipped()} of at most {outcome.where.skips} skipped{beside}"
        lines.append(f"{outcome.where.name}: {outcome.where.about}; {allowed}")
        lines += [f"    {line}" for line in outcome.features]
        slowest = sorted(outcome.took, key=outcome.took.get, reverse=True)[:3]
        lines.append(f"    slowest: {', '.join(f'{name} {outcome.took[name]:.0f} s' for name in slowest)}")
    return "\n".join(lines)


def times(outcome):
    """How long each test took, the slowest first."""
    slowest = sorted(outcome.took.items(), key=lambda test: test[1], reverse=True)
    return "".join(f"{seconds:8.2f} s  {name}\n" for name, seconds in slowest)


def complaints(outcome):
    lines = [f"{outcome.where.name}: {wrong}" for wrong in outcome.wrong]
    for driver, results in outcome.tests.items():
        lines += [f"{outcome.where.name}: {name} failed on {driver}" for name in results.get("failed", [])]
    return lines
