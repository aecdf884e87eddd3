"""Saved prompts: what is found again, what is written, and what a damaged file or a full disk does."""

from __future__ import annotations

import dataclasses
import resource
from pathlib import Path

import pytest

from modules.engines.prompt_cache import prompt_file, store
from modules.engines.prompt_cache.folder import TEMPORARY
from modules.engines.prompt_cache.prompt_file import MAGIC, DamagedFile
from tests.engines.prompt_cache.prompts import KEY, LAYOUT, open_store, prompt, read, save, state_of


def test_a_saved_prompt_is_found_by_a_store_opened_later(tmp_path: Path) -> None:
    folder, tokens = tmp_path / "prompts", prompt(300)
    save(open_store(folder), tokens)
    assert read(open_store(folder), tokens + prompt(20, 1)) == (tokens, state_of(tokens))
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700


def test_a_file_is_read_only_for_more_tokens_than_memory_holds(tmp_path: Path) -> None:
    saved, tokens = open_store(tmp_path), prompt(600)
    save(saved, tokens)
    assert saved.find(tokens, held=600 - store.MIN_GAIN) is None
    assert saved.find(tokens, held=599 - store.MIN_GAIN) is not None
    assert saved.find(tokens[:80] + prompt(500, 1), held=0) is not None
    assert saved.find(tokens[:70] + prompt(500, 1), held=0) is None, "70 tokens are not worth reading 600"
    assert saved.find(tokens[:400] + prompt(100, 1), held=0, can_truncate=False) is None
    assert saved.find(tokens + prompt(1, 1), held=0, can_truncate=False) is not None


def test_another_model_option_or_version_finds_nothing(tmp_path: Path) -> None:
    tokens = prompt(300)
    save(open_store(tmp_path), tokens)
    for part in ("model", "content", "state"):
        other = dataclasses.replace(KEY, **{part: "f" * 16})
        assert open_store(tmp_path, key=other).find(tokens, 0) is None
    changing = open_store(tmp_path)
    changing.use_key(dataclasses.replace(KEY, state="f" * 16))
    assert changing.find(tokens, 0) is None
    changing.use_key(KEY)
    assert changing.find(tokens, 0) is not None


def test_only_what_is_long_and_new_is_worth_writing(tmp_path: Path) -> None:
    saved, tokens = open_store(tmp_path, max_bytes=100_000), prompt(900)
    assert not saved.is_worth_writing(tokens[: store.MIN_TOKENS - 1], 1, at_end=True)
    assert saved.is_worth_writing(tokens[: store.MIN_TOKENS], 1, at_end=False)
    save(saved, tokens[:300])
    for length, while_loaded, at_end in (
        (363, False, False),
        (364, False, True),
        (555, False, True),
        (556, True, True),
    ):
        assert saved.is_worth_writing(tokens[:length], 1, at_end=False) is while_loaded
        assert saved.is_worth_writing(tokens[:length], 1, at_end=True) is at_end
    assert not saved.is_worth_writing(tokens, 100_001, at_end=True), "larger than the folder may be"
    assert not saved.is_worth_writing(tokens, 1 << 16, at_end=True, seconds=1e-9), "there is no time for it"


def test_a_longer_prompt_replaces_the_one_it_continues(tmp_path: Path) -> None:
    saved, tokens = open_store(tmp_path), prompt(600)
    save(saved, tokens[:300])
    save(saved, tokens[:290] + prompt(300, 1))  # the end of the answer was tokenized otherwise
    assert len(list(tmp_path.iterdir())) == len(saved.prompts) == 1
    save(saved, tokens[:290] + prompt(10, 2))
    assert len(list(tmp_path.iterdir())) == len(saved.prompts) == 2, "the other branch is kept"


def test_a_recurrent_model_keeps_the_prompt_that_its_last_answer_continues(tmp_path: Path) -> None:
    """It cannot take an answer back, and begins another one at a shorter prompt alone."""
    saved, tokens = open_store(tmp_path), prompt(1200)
    for length in (300, 580, 900):
        save(saved, tokens[:length], can_truncate=False)
    assert sorted(len(one.tokens) for one in saved.prompts) == [580, 900]
    assert len(list(tmp_path.iterdir())) == 2
    other_answer = tokens[:620] + prompt(200, 1)
    found = saved.find(other_answer, held=0, can_truncate=False)
    assert found is not None and len(found.tokens) == 580
    for length, is_new in ((580 + store.MIN_NEW_TOKENS_AT_END, True), (579 + store.MIN_NEW_TOKENS_AT_END, False)):
        worth = saved.is_worth_writing(other_answer[:length], 1, at_end=True, can_truncate=False)
        assert worth is is_new, "the file of the first answer has nothing of the second"
    save(saved, other_answer, can_truncate=False)
    assert sorted(len(one.tokens) for one in open_store(tmp_path).prompts) == [580, 820, 900]


def test_giving_up_leaves_nothing_behind(tmp_path: Path) -> None:
    saved, tokens = open_store(tmp_path), prompt(300)
    state = state_of(tokens)
    steps = saved.write(tokens, LAYOUT, len(state), [memoryview(state)[:100], memoryview(state)[100:]])
    next(steps)
    assert [file.name.startswith(TEMPORARY) for file in tmp_path.iterdir()] == [True]
    steps.close()  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir()) and not saved.prompts


def test_a_damaged_file_is_deleted_and_not_used(tmp_path: Path, subtests: pytest.Subtests) -> None:
    tokens = prompt(300)
    save(open_store(tmp_path), tokens)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    header_begin, state_begin = len(MAGIC) + 4, len(whole) - 4 - 16 * 300
    cases = {
        "empty": b"",
        "cut off in the state": whole[:-100],
        "cut off in the header": whole[:20],
        "something appended": whole + b"x",
        "not one of ours": b"x" * len(whole),
        "a header of 4 GB": MAGIC + b"\xff\xff\xff\xff" + whole[header_begin:],
        "of another version": whole.replace(b'"version": 1', b'"version": 2'),
        "of another key": whole.replace(b"-2222", b"-2223"),
        "a negative size": whole.replace(b'"size": 4800', b'"size": -480'),
        "no JSON": whole[:header_begin] + b"[" + whole[header_begin + 1 :],
        "a token changed": whole[: state_begin - 4] + b"\0\0\0\0" + whole[state_begin:],
        "a byte of the state changed": whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:],
    }
    for name, content in cases.items():
        with subtests.test(name):
            assert content != whole
            file.write_bytes(content)
            damaged = open_store(tmp_path)
            found = damaged.find(tokens, 0)
            if found is not None:  # the state is not read before it is needed
                with pytest.raises(DamagedFile):
                    read(damaged, tokens)
            assert damaged.find(tokens, 0) is None and not file.exists()


def test_a_file_that_is_deleted_meanwhile_is_forgotten(tmp_path: Path) -> None:
    saved, tokens = open_store(tmp_path), prompt(300)
    save(saved, tokens)
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(DamagedFile):
        read(saved, tokens)
    assert saved.find(tokens, 0) is None
    save(saved, tokens)
    for file in tmp_path.iterdir():
        file.unlink()
    saved.drop_missing()
    assert saved.is_worth_writing(tokens, 1, at_end=False)


def test_a_file_that_has_become_another_is_not_read(tmp_path: Path) -> None:
    saved, tokens = open_store(tmp_path), prompt(300)
    save(saved, tokens)
    (file,) = tmp_path.iterdir()
    save(open_store(tmp_path / "other"), prompt(300, 1))
    (other,) = (tmp_path / "other").iterdir()
    other.replace(file)
    with pytest.raises(DamagedFile):
        read(saved, tokens)
    assert saved.find(tokens, 0) is None


def test_a_full_disk_costs_only_the_file(tmp_path: Path) -> None:
    saved, tokens = open_store(tmp_path), prompt(300)
    save(saved, tokens)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        save(saved, prompt(400, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(list(tmp_path.iterdir())) == 1
    assert read(saved, tokens) is not None and saved.find(prompt(400, 1), 0) is None


def test_a_folder_that_cannot_be_made_saves_nothing(tmp_path: Path) -> None:
    (tmp_path / "prompts").write_bytes(b"a file")
    saved = open_store(tmp_path / "prompts")
    save(saved, prompt(300))
    assert not saved.prompts and saved.find(prompt(300), 0) is None


def test_a_state_is_written_and_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PIECE_BYTES", 1000)
    monkeypatch.setattr(prompt_file, "PIECE_BYTES", 700)
    saved, tokens = open_store(tmp_path), prompt(300)
    state = state_of(tokens)
    assert len(list(saved.write(tokens, LAYOUT, len(state), [memoryview(state)]))) == 5
    assert read(saved, tokens) == (tokens, state)
