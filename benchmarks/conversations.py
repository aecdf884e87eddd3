"""Time to list and to search 2,000 conversations of 65 MB: the first time, and again; memory that the list keeps.

Four in five are of this program's format, the others are histories of the original. Half of the texts are Chinese.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from figures import MB, session, table, verdict
from program import ROOT

sys.path.insert(0, str(ROOT))
from modules.conversations.conversation import Conversation
from modules.conversations.file_format import to_bytes
from modules.conversations.store import ConversationStore

CONVERSATIONS, BYTES = 2_000, 65 * MB
ALLOWED_SECONDS = 0.3
ALLOWED_MEMORY = 40 * MB
REPEATS = 9
RARE, NAMED = "Zugzwang", "pawn structure"
QUERIES = {
    "in one conversation": RARE.lower(),
    "in none": "Nimzowitsch",
    "in all": "model",
    "a key of the files": "content",
    "two words": f"{RARE} model",
    "Chinese, in all": "模型",
    "Chinese, in none": "国际象棋开局",
    "with an accent, in none": "Éxcelsior",
    "with an accent alone, in none": "éé",
}


def main() -> None:
    with session(f"{CONVERSATIONS:,} conversations"), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "logs"
        size = fill(folder)
        store = ConversationStore(folder)
        first = timed(store.list)
        again = [timed(store.list) for _ in range(REPEATS)]
        newest = store.list()[0].id
        after_change = []
        for _ in range(REPEATS):
            store.change(newest, None, lambda conversation: conversation.add("user", "One more question"))
            after_change.append(timed(store.list))
        searches = {
            name: [timed(lambda query=query: store.search(query)) for _ in range(3)] for name, query in QUERIES.items()
        }
        found = {name: len(store.search(query)) for name, query in QUERIES.items()}
        memory = memory_of_list(folder)
    rows = [("list, first time", first, ""), ("list, again", statistics.median(again), "")]
    rows += [("list, after a change", statistics.median(after_change), "")]
    rows += [(f"search: {name}", statistics.median(times), found[name]) for name, times in searches.items()]
    print(f"{size / MB:.0f} MB in {CONVERSATIONS:,} files; the list keeps {memory / MB:.1f} MB.")
    table(["", "seconds (median)", "found"], [(name, f"{seconds:.4f}", count) for name, seconds, count in rows])
    limit = f"{ALLOWED_SECONDS} s"
    slowest = max(again + after_change)
    verdict("Listing, first time", f"{first:.2f} s", limit, first <= ALLOWED_SECONDS)
    verdict("Listing", f"{slowest:.3f} s at worst", limit, slowest <= ALLOWED_SECONDS)
    slowest = max(statistics.median(times) for times in searches.values())
    verdict("Searching", f"{slowest:.2f} s at worst", limit, slowest <= ALLOWED_SECONDS)
    verdict("Memory", f"{memory / MB:.1f} MB", f"{ALLOWED_MEMORY / MB:.0f} MB", memory <= ALLOWED_MEMORY)


def fill(folder: Path) -> int:
    """Write the conversations and return the size of their files in bytes."""
    source = random.Random(0)
    words = ["model", "weights", "context", "token", "attention", "layer", "memory", "gradient", "sample", "prompt"]
    chinese = ["模型", "权重", "上下文", "词符", "注意力", "内存", "采样", "提示词", "显存", "量化"]
    (folder / "instruct").mkdir(parents=True)
    total = 0
    for number in range(CONVERSATIONS):
        length = BYTES // CONVERSATIONS // 28
        if number % 2:
            texts = ["，".join(source.choices(chinese, k=length // 10)) for _ in range(20)]
        else:
            texts = [" ".join(source.choices(words, k=length // 7)) for _ in range(20)]
        if number == CONVERSATIONS // 2:
            texts[7] += f" {RARE}"
        content = history(texts, number) if number % 5 == 0 else conversation(texts, number)
        (folder / "instruct" / f"{name(number)}.json").write_bytes(content)
        total += len(content)
    return total


def name(number: int) -> str:
    return f"20260101-00-{number // 60 % 60:02}-{number % 60:02}-{number:04x}"


def conversation(texts: list[str], number: int) -> bytes:
    kept = Conversation(name(number), created=number, updated=number)
    for position, text in enumerate(texts):
        kept.add("assistant" if position % 2 else "user", text)
    return to_bytes(kept)


def history(texts: list[str], number: int) -> bytes:
    rows = [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    if number % 2:
        return json.dumps({"data": rows, "data_visible": rows}, indent=2).encode()
    return json.dumps({"internal": rows, "visible": [], "metadata": {}}, indent=4, ensure_ascii=False).encode()


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def memory_of_list(folder: Path) -> int:
    tracemalloc.start()
    store = ConversationStore(folder)
    store.list()
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return memory


if __name__ == "__main__":
    main()
