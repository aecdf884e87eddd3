"""Check that the tests catch the deliberate faults listed in tests/mutations.md.

    .venv/bin/python scripts/mutate.py               all of them
    .venv/bin/python scripts/mutate.py 3 10-14       some of them
    .venv/bin/python scripts/mutate.py --list        show what there is
    .venv/bin/python scripts/mutate.py --jobs 2      several at a time

Every fault is made in a throw-away copy of the checkout, uncommitted changes included; the checkout itself is never
written to. The named tests first run without any fault, because a test that always fails proves nothing.
The exit status is 0 only if every selected fault is caught.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CATALOG = ROOT / "tests" / "mutations.md"

CAUGHT, TIMED_OUT = "caught", "caught (timed out)"
SURVIVED, INAPPLICABLE, RED, UNTESTED, BROKEN = (
    "SURVIVED",
    "does not apply",
    "red without the fault",
    "no test",
    "tests did not run",
)

_HEADING = re.compile(r"### (\d+)\. (.+)")
_FIELD = re.compile(r"(File|Expected|Tests): (.+)")
_FENCE_START, _FENCE_END = "```diff", "```"
_OUTCOME = re.compile(r"(PASSED|FAILED|ERROR) (\S.*?)(?: - .*)?")
_TESTS_FAILED = 1  # pytest's exit status; 2 and more mean that it could not run them


class CatalogError(Exception):
    """A mistake in the list of mutations."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"{CATALOG.name}, line {line}: {problem}")


class InapplicableError(Exception):
    """The text to be replaced does not occur exactly once."""


@dataclass(frozen=True)
class Mutation:
    """One fault: `old` is replaced by `new`, both whole lines, in `file` below the root of the checkout."""

    number: int
    title: str
    file: str
    old: str
    new: str
    expected: str
    tests: tuple[str, ...]

    def apply(self, content: str) -> str:
        """Return `content` with the fault. Raises InapplicableError unless `old` occurs exactly once."""
        pattern = re.compile("^" + re.escape(self.old), re.MULTILINE)
        count = len(pattern.findall(content))
        if count != 1:
            raise InapplicableError(f"the old text occurs {count} times in {self.file}")
        return pattern.sub(lambda _: self.new, content)


# -- the list ----------------------------------------------------------------------------------------------------------


@dataclass
class _Section:
    """What has been read of one mutation so far."""

    line: int
    number: int
    title: str
    fields: dict[str, str] = field(default_factory=dict)
    diff: list[str] = field(default_factory=list)

    def finish(self) -> Mutation:
        for name in ("File", "Expected", "Tests"):
            if name not in self.fields:
                raise CatalogError(self.line, f"mutation {self.number} has no line '{name}: …'")
        old, new = _sides(self.diff)
        if old == new:
            raise CatalogError(self.line, f"mutation {self.number} changes nothing")
        if not old:
            raise CatalogError(self.line, f"mutation {self.number} has no old text to look for")
        tests = tuple(re.findall(r"`([^`]+)`", self.fields["Tests"]))
        if not tests and self.fields["Tests"] != "none":
            raise CatalogError(self.line, f"mutation {self.number}: write test names in backticks, or 'none'")
        file = self.fields["File"].strip("`")
        return Mutation(self.number, self.title, file, old, new, self.fields["Expected"], tests)


def parse(text: str) -> list[Mutation]:
    """Read the mutations of a Markdown text. Raises CatalogError with the line of the first mistake."""
    sections: list[_Section] = []
    in_diff, current = False, ""
    for number, line in enumerate(text.splitlines(), 1):
        heading, named = _HEADING.fullmatch(line), _FIELD.fullmatch(line)
        if in_diff:
            in_diff = line != _FENCE_END
            if in_diff:
                sections[-1].diff.append(_checked(number, line))
        elif heading:
            sections.append(_Section(number, int(heading[1]), heading[2]))
            current = ""
        elif line == _FENCE_START and sections:
            in_diff = True
        elif named and sections:
            current = named[1]
            if current in sections[-1].fields:
                raise CatalogError(number, f"a second line '{current}: …' in mutation {sections[-1].number}")
            sections[-1].fields[current] = named[2]
        elif line.strip() and current:  # a field may go on for several lines
            sections[-1].fields[current] += " " + line.strip()
        else:
            current = ""
    if in_diff:
        raise CatalogError(sections[-1].line, f"the diff of mutation {sections[-1].number} is not closed")
    return _numbered(sections)


def _numbered(sections: Sequence[_Section]) -> list[Mutation]:
    seen: set[int] = set()
    for section in sections:
        if section.number in seen:
            raise CatalogError(section.line, f"the number {section.number} is used twice")
        seen.add(section.number)
    return [section.finish() for section in sections]


def _checked(number: int, line: str) -> str:
    if line and line[0] not in " +-":
        raise CatalogError(number, "lines of a diff begin with '-', '+' or a space")
    return line


def _sides(diff: Iterable[str]) -> tuple[str, str]:
    """Return the text before and after the change; lines that begin with a space belong to both."""
    old, new = "", ""
    for line in diff:
        sign, rest = line[:1], line[1:] + "\n"
        old += rest if sign != "+" else ""
        new += rest if sign != "-" else ""
    return old, new


def select(mutations: Sequence[Mutation], wanted: Sequence[str]) -> list[Mutation]:
    """Return the mutations numbered by `wanted`, such as "3" or "10-14"; all of them if it is empty.

    Raises ValueError for what is no number, or the number of no mutation.
    """
    if not wanted:
        return list(mutations)
    numbers: set[int] = set()
    for word in wanted:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if not match:
            raise ValueError(f"{word!r} is neither a number nor a range such as 10-14")
        numbers |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    if unknown := numbers - {each.number for each in mutations}:
        raise ValueError(f"there is no mutation {min(unknown)}")
    return [each for each in mutations if each.number in numbers]


# -- the copy ----------------------------------------------------------------------------------------------------------


def copy_checkout(folder: Path) -> None:
    """Copy the files of the checkout that git knows or would add to `folder`, and link what is too large to copy.

    `cache` is not linked but empty: a program with a fault in it shall not write into the user's.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_symlink() or source.is_file():  # a file deleted but not yet committed is listed as well
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    links = [ROOT / ".venv", ROOT / "overlays", *(ROOT / "models").iterdir()]
    for source in links:
        target = folder / source.relative_to(ROOT)
        if source.exists() and not target.exists():
            target.symlink_to(source.resolve())
    (folder / "cache").mkdir()


@contextlib.contextmanager
def fault(mutation: Mutation, folder: Path) -> Iterator[None]:
    """Have the copy in `folder` contain the mutation. Raises InapplicableError."""
    path = folder / mutation.file
    if not path.is_file():
        raise InapplicableError(f"there is no file {mutation.file}")
    before = path.read_text(encoding="utf-8")
    path.write_text(mutation.apply(before), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")


# -- the tests ---------------------------------------------------------------------------------------------------------


def run_tests(folder: Path, words: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """Run pytest in the copy. Return its exit status, None if it took too long, and what it printed."""
    # Without bytecode files: a change that keeps the size and comes within the same second would go unnoticed.
    own = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(folder / ".venv" / "bin" / "python"), "-m", "pytest", "-q", *words]
    with subprocess.Popen(
        command, cwd=folder, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            printed, _ = process.communicate(timeout=seconds)
            return process.returncode, printed
        except subprocess.TimeoutExpired:
            process.kill()
            _end_processes_in(folder)  # they hold the pipe open
            printed, _ = process.communicate()
            return None, printed
        finally:
            _end_processes_in(folder)


def _end_processes_in(folder: Path) -> None:
    """Kill what a test has left behind: processes whose working directory is the copy (Linux only)."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to somebody else
            if Path(os.readlink(link)).is_relative_to(folder):
                os.kill(int(link.parent.name), signal.SIGKILL)


def green_tests(printed: str, tests: Iterable[str]) -> set[str]:
    """Return those of `tests` that passed with all their cases, going by pytest's summary (`-rA`)."""
    outcomes: dict[str, set[str]] = {}
    for line in printed.splitlines():
        if match := _OUTCOME.fullmatch(line):
            outcomes.setdefault(match[2], set()).add(match[1])
    green = set()
    for test in tests:
        found = [each for name, each in outcomes.items() if name == test or name.startswith((f"{test}[", f"{test}::"))]
        if found and set().union(*found) == {"PASSED"}:
            green.add(test)
    return green


@dataclass(frozen=True)
class Result:
    mutation: Mutation
    outcome: str
    seconds: float = 0.0
    detail: str = ""

    @property
    def caught(self) -> bool:
        return self.outcome in (CAUGHT, TIMED_OUT)


def try_mutation(mutation: Mutation, folder: Path, green: set[str], seconds: float) -> Result:
    """Make the fault in the copy, run its tests and tell what came of it."""
    if not mutation.tests:
        return Result(mutation, UNTESTED)
    if red := [test for test in mutation.tests if test not in green]:
        return Result(mutation, RED, detail=", ".join(red))
    began = time.monotonic()
    try:
        with fault(mutation, folder):
            status, printed = run_tests(folder, ["-x", "--tb=no", "-rfE", *mutation.tests], seconds)
    except InapplicableError as error:
        return Result(mutation, INAPPLICABLE, detail=str(error))
    took = time.monotonic() - began
    if status is None:
        return Result(mutation, TIMED_OUT, took)
    if status == 0:
        return Result(mutation, SURVIVED, took)
    last = printed.strip().splitlines()[-3:]
    failed = [line for line in printed.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if status != _TESTS_FAILED:
        return Result(mutation, BROKEN, took, f"pytest ended with {status}: {' | '.join(last)}")
    return Result(mutation, CAUGHT, took, failed[0][:200] if failed else "")


def try_all(mutations: Sequence[Mutation], jobs: int, seconds: float) -> list[Result]:
    """Try every mutation, `jobs` at a time in as many copies; print each result as soon as it is known."""
    tests = sorted({test for each in mutations for test in each.tests})
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="mutate-") as temporary:
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(jobs):
            folder = Path(temporary).resolve() / str(number)
            copy_checkout(folder)
            copies.put(folder)
        print(f"Running {len(tests)} tests without a fault …", flush=True)
        green = _checked_tests(folder, tests, seconds * max(len(tests), 1))

        def in_some_copy(mutation: Mutation) -> Result:
            folder = copies.get()
            try:
                return try_mutation(mutation, folder, green, seconds)
            finally:
                copies.put(folder)

        with ThreadPoolExecutor(jobs) as pool:
            for done in as_completed([pool.submit(in_some_copy, each) for each in mutations]):
                results.append(done.result())
                print(_line(results[-1]), flush=True)
    return sorted(results, key=lambda each: each.mutation.number)


def _checked_tests(folder: Path, tests: Sequence[str], seconds: float) -> set[str]:
    """Return those of `tests` that pass without a fault."""
    if not tests:
        return set()
    began = time.monotonic()
    _, printed = run_tests(folder, ["--tb=short", "-rA", "--show-capture=no", *tests], seconds)
    green = green_tests(printed, tests)
    print(f"{len(green)} of {len(tests)} pass ({time.monotonic() - began:.0f} s)", flush=True)
    if len(green) < len(tests):
        print(printed[-4000:])
    return green


def _line(result: Result) -> str:
    title = f"{result.mutation.number:3}  {result.outcome:21}  {result.seconds:6.1f} s  {result.mutation.title}"
    return title + (f"\n     {result.detail}" if result.detail else "")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check that the tests catch the faults listed in tests/mutations.md.")
    parser.add_argument("numbers", nargs="*", help="which ones, such as 3 or 10-14; all if none are given")
    parser.add_argument("--list", action="store_true", help="show the mutations and their tests, and run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="how many to try at a time")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS", help="for the tests of one mutation")
    asked = parser.parse_args(words)
    try:
        mutations = select(parse(CATALOG.read_text(encoding="utf-8")), asked.numbers)
    except (CatalogError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if asked.list:
        for each in mutations:
            print(f"{each.number:3}  {each.title}\n     {each.file}\n     {', '.join(each.tests) or UNTESTED}")
        return 0
    began = time.monotonic()
    results = try_all(mutations, max(asked.jobs, 1), asked.timeout)
    caught = sum(each.caught for each in results)
    print(f"\n{caught} of {len(results)} caught in {(time.monotonic() - began) / 60:.1f} min")
    for result in results:
        if not result.caught:
            print(_line(result))
    return 0 if caught == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
