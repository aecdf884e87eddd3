"""Check that the tests catch the deliberate faults (mutations) listed in tests/mutations.md.

    .venv/bin/python scripts/mutate.py               all mutations
    .venv/bin/python scripts/mutate.py 3 10-14       some mutations
    .venv/bin/python scripts/mutate.py --list        list them
    .venv/bin/python scripts/mutate.py --jobs 2      two at a time

Mutations are applied to a temporary copy of the checkout, including uncommitted changes. The tests first run without a
mutation, because a test that always fails proves nothing. The exit status is 0 only if every selected mutation is
caught.
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
SURVIVED, INAPPLICABLE, ALREADY_FAILING, UNTESTED, BROKEN = (
    "SURVIVED",
    "does not apply",
    "fails without the fault",
    "no test",
    "tests did not run",
)

_HEADING = re.compile(r"### (\d+)\. (.+)")
_FIELD = re.compile(r"(File|Expected|Tests): (.+)")
_FENCE_START, _FENCE_END = "```diff", "```"
_OUTCOME = re.compile(r"(PASSED|FAILED|ERROR) (\S.*?)(?: - .*)?")
_TESTS_FAILED = 1  # exit status of pytest; from 2 on the tests did not run


class CatalogError(Exception):
    """An error in tests/mutations.md."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"{CATALOG.name}, line {line}: {problem}")


class InapplicableError(Exception):
    """The text to be replaced does not occur exactly once."""


@dataclass(frozen=True)
class Mutation:
    """A deliberate fault: replaces the lines `old` by `new` in `file`, a path relative to the checkout."""

    number: int
    title: str
    file: str
    old: str
    new: str
    expected: str
    tests: tuple[str, ...]

    def apply(self, content: str) -> str:
        """Return the mutated content. Raises InapplicableError unless `old` occurs exactly once."""
        pattern = re.compile("^" + re.escape(self.old), re.MULTILINE)
        count = len(pattern.findall(content))
        if count != 1:
            raise InapplicableError(f"the old text occurs {count} times in {self.file}")
        return pattern.sub(lambda _: self.new, content)


# -- the catalog -------------------------------------------------------------------------------------------------------


@dataclass
class _Section:
    """A mutation while it is being parsed."""

    line: int
    number: int
    title: str
    fields: dict[str, str] = field(default_factory=dict)
    diff: list[str] = field(default_factory=list)

    def build(self) -> Mutation:
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
    """Parse the mutations in a Markdown text. Raises CatalogError with the line of the first error."""
    sections: list[_Section] = []
    in_diff, current = False, ""
    for number, line in enumerate(text.splitlines(), 1):
        heading, field_line = _HEADING.fullmatch(line), _FIELD.fullmatch(line)
        if in_diff:
            in_diff = line != _FENCE_END
            if in_diff:
                sections[-1].diff.append(_checked(number, line))
        elif heading:
            sections.append(_Section(number, int(heading[1]), heading[2]))
            current = ""
        elif line == _FENCE_START and sections:
            in_diff = True
        elif field_line and sections:
            current = field_line[1]
            if current in sections[-1].fields:
                raise CatalogError(number, f"a second line '{current}: …' in mutation {sections[-1].number}")
            sections[-1].fields[current] = field_line[2]
        elif line.strip() and current:  # continuation line of a field
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
    return [section.build() for section in sections]


def _checked(number: int, line: str) -> str:
    if line and line[0] not in " +-":
        raise CatalogError(number, "lines of a diff begin with '-', '+' or a space")
    return line


def _sides(diff: Iterable[str]) -> tuple[str, str]:
    """Return the text before and after the change. Lines that start with a space belong to both."""
    old, new = "", ""
    for line in diff:
        sign, content = line[:1], line[1:] + "\n"
        old += content if sign != "+" else ""
        new += content if sign != "-" else ""
    return old, new


def select(mutations: Sequence[Mutation], ranges: Sequence[str]) -> list[Mutation]:
    """Return the mutations with the numbers in `ranges`, such as "3" or "10-14"; all if it is empty.

    Raises ValueError for invalid or unknown numbers.
    """
    if not ranges:
        return list(mutations)
    numbers: set[int] = set()
    for text in ranges:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        if not match:
            raise ValueError(f"{text!r} is neither a number nor a range such as 10-14")
        numbers |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    if unknown := numbers - {mutation.number for mutation in mutations}:
        raise ValueError(f"there is no mutation {min(unknown)}")
    return [mutation for mutation in mutations if mutation.number in numbers]


# -- the copy ----------------------------------------------------------------------------------------------------------


def copy_checkout(folder: Path) -> None:
    """Copy the files of the checkout that git does not ignore to `folder`, and link models and environments.

    `cache` is an empty folder rather than a link, so that mutated code does not write into the user's cache.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_symlink() or source.is_file():  # git also lists deleted files that are not committed
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
    """Apply the mutation to the copy in `folder` inside the `with` block. Raises InapplicableError."""
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


def run_tests(folder: Path, arguments: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """Run pytest in the copy. Return its exit status, or None if it timed out, and its output."""
    # No bytecode: Python does not notice a change of the same size within the same second.
    variables = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(folder / ".venv" / "bin" / "python"), "-m", "pytest", "-q", *arguments]
    with subprocess.Popen(
        command, cwd=folder, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            process.kill()
            _end_processes_in(folder)  # they hold the pipe open
            output, _ = process.communicate()
            return None, output
        finally:
            _end_processes_in(folder)


def _end_processes_in(folder: Path) -> None:
    """Kill processes that tests left running: those whose working directory is in the copy (Linux only)."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            if Path(os.readlink(link)).is_relative_to(folder):
                os.kill(int(link.parent.name), signal.SIGKILL)


def passing_tests(output: str, tests: Iterable[str]) -> set[str]:
    """Return the tests that passed with all their cases, from pytest's summary (`-rA`)."""
    outcomes: dict[str, set[str]] = {}
    for line in output.splitlines():
        if match := _OUTCOME.fullmatch(line):
            outcomes.setdefault(match[2], set()).add(match[1])
    passing = set()
    for test in tests:
        prefixes = (f"{test}[", f"{test}::")
        results = [results for name, results in outcomes.items() if name == test or name.startswith(prefixes)]
        if results and set().union(*results) == {"PASSED"}:
            passing.add(test)
    return passing


@dataclass(frozen=True)
class Result:
    mutation: Mutation
    outcome: str
    seconds: float = 0.0
    detail: str = ""

    @property
    def caught(self) -> bool:
        return self.outcome in (CAUGHT, TIMED_OUT)


def try_mutation(mutation: Mutation, folder: Path, passing: set[str], seconds: float) -> Result:
    """Apply the mutation to the copy, run its tests and return the result."""
    if not mutation.tests:
        return Result(mutation, UNTESTED)
    if failing := [test for test in mutation.tests if test not in passing]:
        return Result(mutation, ALREADY_FAILING, detail=", ".join(failing))
    began = time.monotonic()
    try:
        with fault(mutation, folder):
            status, output = run_tests(folder, ["-x", "--tb=no", "-rfE", *mutation.tests], seconds)
    except InapplicableError as error:
        return Result(mutation, INAPPLICABLE, detail=str(error))
    elapsed = time.monotonic() - began
    if status is None:
        return Result(mutation, TIMED_OUT, elapsed)
    if status == 0:
        return Result(mutation, SURVIVED, elapsed)
    last = output.strip().splitlines()[-3:]
    failed = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if status != _TESTS_FAILED:
        return Result(mutation, BROKEN, elapsed, f"pytest ended with {status}: {' | '.join(last)}")
    return Result(mutation, CAUGHT, elapsed, failed[0][:200] if failed else "")


def try_all(mutations: Sequence[Mutation], jobs: int, seconds: float) -> list[Result]:
    """Try every mutation, `jobs` at a time in as many copies, and print every result as it comes."""
    tests = sorted({test for mutation in mutations for test in mutation.tests})
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="mutate-") as temporary:
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(jobs):
            folder = Path(temporary).resolve() / str(number)
            copy_checkout(folder)
            copies.put(folder)
        print(f"Running {len(tests)} tests without a fault …", flush=True)
        passing = _checked_tests(folder, tests, seconds * max(len(tests), 1))

        def in_some_copy(mutation: Mutation) -> Result:
            folder = copies.get()
            try:
                return try_mutation(mutation, folder, passing, seconds)
            finally:
                copies.put(folder)

        with ThreadPoolExecutor(jobs) as pool:
            for done in as_completed([pool.submit(in_some_copy, mutation) for mutation in mutations]):
                results.append(done.result())
                print(_line(results[-1]), flush=True)
    return sorted(results, key=lambda result: result.mutation.number)


def _checked_tests(folder: Path, tests: Sequence[str], seconds: float) -> set[str]:
    """Return the tests that pass without a mutation."""
    if not tests:
        return set()
    began = time.monotonic()
    _, output = run_tests(folder, ["--tb=short", "-rA", "--show-capture=no", *tests], seconds)
    passing = passing_tests(output, tests)
    print(f"{len(passing)} of {len(tests)} pass ({time.monotonic() - began:.0f} s)", flush=True)
    if len(passing) < len(tests):
        print(output[-4000:])
    return passing


def _line(result: Result) -> str:
    title = f"{result.mutation.number:3}  {result.outcome:21}  {result.seconds:6.1f} s  {result.mutation.title}"
    return title + (f"\n     {result.detail}" if result.detail else "")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check that the tests catch the faults listed in tests/mutations.md.")
    parser.add_argument("numbers", nargs="*", help="mutations to try, such as 3 or 10-14; all by default")
    parser.add_argument("--list", action="store_true", help="list the mutations and their tests, without running them")
    parser.add_argument("--jobs", type=int, default=1, help="number of mutations to try at a time")
    parser.add_argument(
        "--timeout", type=float, default=600, metavar="SECONDS", help="timeout for the tests of one mutation"
    )
    args = parser.parse_args(arguments)
    try:
        mutations = select(parse(CATALOG.read_text(encoding="utf-8")), args.numbers)
    except (CatalogError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if args.list:
        for mutation in mutations:
            tests = ", ".join(mutation.tests) or UNTESTED
            print(f"{mutation.number:3}  {mutation.title}\n     {mutation.file}\n     {tests}")
        return 0
    began = time.monotonic()
    results = try_all(mutations, max(args.jobs, 1), args.timeout)
    caught = sum(result.caught for result in results)
    print(f"\n{caught} of {len(results)} caught in {(time.monotonic() - began) / 60:.1f} min")
    for result in results:
        if not result.caught:
            print(_line(result))
    return 0 if caught == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
