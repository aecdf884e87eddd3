"""Saved prompts of few tokens, with states of random bytes."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

from modules.engines.prompt_cache.folder import PromptFolder, PromptKey
from modules.engines.prompt_cache.store import PromptStore

KEY = PromptKey("0" * 16, "1" * 16, "2" * 16)
LAYOUT = ["float32", 3]


def prompt(length: int, seed: int = 0) -> array[int]:
    generator = random.Random(seed)
    return array("i", (generator.randrange(50_000) for _ in range(length)))


def state_of(tokens: array[int]) -> bytes:
    """Return another state for other tokens, of 16 bytes a token."""
    return random.Random(tokens.tobytes()).randbytes(16 * len(tokens))


def open_store(path: Path, max_bytes: int = 1 << 30, key: PromptKey = KEY) -> PromptStore:
    return PromptStore(PromptFolder(path, max_bytes), "tiny.gguf", key)


def save(store: PromptStore, tokens: array[int], rank: int = 0, can_truncate: bool = True) -> None:
    """Save a prompt at once."""
    state = state_of(tokens)
    for _ in store.write(tokens, LAYOUT, len(state), [memoryview(state)], rank, can_truncate):
        pass


def read(store: PromptStore, tokens: array[int], held: int = 0) -> tuple[array[int], bytes] | None:
    """Return the tokens and the state of the saved prompt that is found for `tokens`, None if there is none."""
    found = store.find(tokens, held)
    if found is None:
        return None
    state = bytearray(found.header.size)
    with store.reading(found) as reader:
        reader.read_into(memoryview(state))
    return found.tokens, bytes(state)
