"""The catalog of mutations, which must be valid and match the code, and scripts/mutate.py."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from scripts import mutate
from scripts.mutate import ROOT, CatalogError, InapplicableError, Mutation

VALID = """\
# A list

### 3. Addition subtracts

File: `sums.py`

```diff
 def add(left, right):
-    return left + right
+    return left - right
```

Expected: a sum is a sum.
Tests: `tests/test_sums.py::test_a_sum`,
`tests/test_sums.py::test_a_longer_sum`
"""
TEST_LIST = "`tests/test_sums.py::test_a_sum`,\n`tests/test_sums.py::test_a_longer_sum`"
SUMS = "def add(left, right):\n    return left + right\n"


def parse_one(text: str) -> Mutation:
    (mutation,) = mutate.parse(text)
    return mutation


def test_every_mutation_applies_to_the_current_code() -> None:
    mutations = mutate.parse(mutate.CATALOG.read_text(encoding="utf-8"))
    errors = {}
    for mutation in mutations:
        try:
            mutation.apply((ROOT / mutation.file).read_text(encoding="utf-8"))
        except (OSError, InapplicableError) as error:
            errors[f"{mutation.number}. {mutation.title}"] = str(error)
    assert not errors
    assert len(mutations) >= 42


def test_every_mutation_names_tests_that_exist() -> None:
    for mutation in mutate.parse(mutate.CATALOG.read_text(encoding="utf-8")):
        for test in mutation.tests:
            file, _, name = test.partition("::")
            assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8"), test


def test_every_python_file_stays_valid_when_mutated() -> None:
    for mutation in mutate.parse(mutate.CATALOG.read_text(encoding="utf-8")):
        if mutation.file.endswith(".py"):
            compile(mutation.apply((ROOT / mutation.file).read_text(encoding="utf-8")), mutation.file, "exec")


def test_a_section_is_read_with_its_diff_and_its_tests() -> None:
    mutation = parse_one(VALID)
    assert (mutation.number, mutation.title, mutation.file) == (3, "Addition subtracts", "sums.py")
    assert mutation.old == SUMS
    assert mutation.tests == ("tests/test_sums.py::test_a_sum", "tests/test_sums.py::test_a_longer_sum")
    assert mutation.apply(SUMS) == "def add(left, right):\n    return left - right\n"


def test_a_mutation_without_tests_has_none() -> None:
    assert parse_one(VALID.partition("Tests:")[0] + "Tests: none\n").tests == ()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("File: `sums.py`\n", "", "line 3: mutation 3 has no line 'File: …'"),
        ("Expected: a sum is a sum.\n", "", "line 3: mutation 3 has no line 'Expected: …'"),
        ("+    return left - right", "+    return left + right", "line 3: mutation 3 changes nothing"),
        ("-    return left + right\n", "return\n", "line 9: lines of a diff begin with"),
        (" def add(left, right):\n-    return left + right\n", "", "line 3: mutation 3 has no old text"),
        ("Expected:", "File: `a.py`\nExpected:", "line 13: a second line 'File: …'"),
        (TEST_LIST, "some", "in backticks, or 'none'"),
        ("# A list", VALID, "the number 3 is used twice"),
    ],
)
def test_an_error_in_the_catalog_is_reported_with_its_line(old: str, new: str, problem: str) -> None:
    assert old in VALID
    with pytest.raises(CatalogError) as caught:
        mutate.parse(VALID.replace(old, new, 1))
    assert problem in str(caught.value)


def test_a_diff_that_is_not_closed_is_reported() -> None:
    with pytest.raises(CatalogError, match="line 3: the diff of mutation 3 is not closed"):
        mutate.parse(VALID.partition("```\n\n")[0])


@pytest.mark.parametrize("code", ["", SUMS + SUMS, "  " + SUMS, SUMS.rstrip("\n") + " + 0\n"])
def test_the_old_text_must_occur_exactly_once_as_whole_lines(code: str) -> None:
    with pytest.raises(InapplicableError):
        parse_one(VALID).apply(code)


def test_mutations_are_selected_by_numbers_and_ranges() -> None:
    mutations = [Mutation(number, "", "", "a", "b", "", ()) for number in range(1, 9)]
    assert [mutation.number for mutation in mutate.select(mutations, ["7", "2-4"])] == [2, 3, 4, 7]
    assert mutate.select(mutations, []) == mutations


@pytest.mark.parametrize("selection", ["9", "7-9", "x", "3-", "-3", ""])
def test_a_number_that_selects_nothing_is_rejected(selection: str) -> None:
    with pytest.raises(ValueError):
        mutate.select([Mutation(number, "", "", "a", "b", "", ()) for number in range(1, 9)], [selection])


def test_a_fault_is_reverted_even_if_the_tests_raise(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(SUMS, encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), mutate.fault(parse_one(VALID), tmp_path):
        assert "left - right" in (tmp_path / "sums.py").read_text(encoding="utf-8")
        raise KeyboardInterrupt
    assert (tmp_path / "sums.py").read_text(encoding="utf-8") == SUMS


def test_tests_count_as_passing_only_if_all_cases_pass() -> None:
    printed = (
        "PASSED tests/a.py::test_plain\n"
        "PASSED tests/a.py::test_cases[one two]\n"
        "FAILED tests/a.py::test_cases[three] - assert 1 == 2\n"
        "PASSED tests/a.py::test_many[x]\n"
        "PASSED tests/a.py::test_many[y]\n"
        "PASSED tests/a.py::test_breaks_down\n"
        "ERROR tests/a.py::test_breaks_down - left behind\n"
        "SKIPPED [1] tests/a.py:9: no GPU\n"
    )
    names = ("test_plain", "test_cases", "test_many", "test_breaks_down", "test_skipped", "test_pla")
    passing = mutate.passing_tests(printed, [f"tests/a.py::{name}" for name in names])
    assert passing == {"tests/a.py::test_plain", "tests/a.py::test_many"}


# -- trying a mutation -------------------------------------------------------------------------------------------------

TEST = "test_sums.py::test_a_sum"


def addition(old: str = SUMS, tests: tuple[str, ...] = (TEST,)) -> Mutation:
    return Mutation(1, "Addition subtracts", "sums.py", old, SUMS.replace("+", "-"), "a sum is a sum", tests)


@pytest.mark.parametrize(
    ("status", "outcome", "caught"),
    [
        (0, mutate.SURVIVED, False),
        (1, mutate.CAUGHT, True),
        (2, mutate.BROKEN, False),
        (4, mutate.BROKEN, False),
        (None, mutate.TIMED_OUT, True),
    ],
)
def test_the_exit_status_of_pytest_determines_the_result(
    status: int | None, outcome: str, caught: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sums.py").write_text(SUMS, encoding="utf-8")
    monkeypatch.setattr(mutate, "run_tests", lambda *_: (status, "FAILED test_sums.py::test_a_sum - assert -1 == 5"))
    result = mutate.try_mutation(addition(), tmp_path, {TEST}, 5)
    assert (result.outcome, result.caught) == (outcome, caught)


def test_pytest_runs_in_the_copy_and_sees_the_fault(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    (tmp_path / "sums.py").write_text(SUMS, encoding="utf-8")
    check = "import sums\n\n\ndef test_a_sum() -> None:\n    assert sums.add(2, 3) == 5\n"
    (tmp_path / "test_sums.py").write_text(check, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n", encoding="utf-8")
    status, printed = mutate.run_tests(tmp_path, ["-rA", TEST], 60)
    assert status == 0
    assert mutate.passing_tests(printed, [TEST]) == {TEST}
    result = mutate.try_mutation(addition(), tmp_path, {TEST}, 60)
    assert (result.outcome, result.detail) == (mutate.CAUGHT, f"FAILED {TEST} - assert -1 == 5")


def test_tests_that_take_too_long_are_killed(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    (tmp_path / "test_sleep.py").write_text("import time\n\ntime.sleep(60)\n", encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    began = time.monotonic()
    assert mutate.run_tests(tmp_path, ["test_sleep.py"], 0.5)[0] is None
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("mutation", "outcome"),
    [
        (addition(tests=("another",)), mutate.ALREADY_FAILING),
        (addition(tests=()), mutate.UNTESTED),
        (addition(old="other\n"), mutate.INAPPLICABLE),
    ],
)
def test_untestable_mutations_are_reported_without_a_run(mutation: Mutation, outcome: str, tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(SUMS, encoding="utf-8")
    result = mutate.try_mutation(mutation, tmp_path, {TEST}, 5)
    assert (result.outcome, result.caught) == (outcome, False)
