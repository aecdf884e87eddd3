"""How far answers that were given together may lie from those given alone, and how far from those of a leak.

Four at a time are answered together, then each is replayed alone (`largest_deviation` in
tests/support/llama_requests.py), and once more behind the words of another conversation, as if those could be
seen. Two minutes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from figures import session, verdict
from program import MODEL, ROOT

sys.path.insert(0, str(ROOT))
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import load
from tests.support.answers import forget, together
from tests.support.llama_requests import MAX_DEVIATION, N_CTX, THREADS, chat, largest_deviation

TOKENS = 60
TOPICS = """the moon, a river in spring, how bread is made, the number seven, volcanoes, the history of tea,
why cats purr, a lost key, the Great Wall, rainbows, a lighthouse keeper, prime numbers,
the violin, how to plant a tree, penguins, old maps, the colour blue, a train journey, bees,
the desert at night, Mozart, clouds, paper, the first computer, chess, a dragon who is afraid,
winter, the sea, mirrors, honey, the pyramids, bicycles, a letter to a friend, glass,
the planet Mars, elephants, soup, dreams, an island, kites, the wheel, gold, snow, an honest thief,
whales, candles, mountains, time"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    model = parser.parse_args().model
    topics = TOPICS.replace("\n", " ").split(", ")
    honest: list[float] = []
    leaking: list[float] = []
    with session(f"Batches of four: {model.name}, {len(topics)} answers of {TOKENS} tokens"):
        worker = WorkerProcess()
        load(worker, model, n_ctx=N_CTX, parallel=4, threads=THREADS, threads_batch=THREADS)
        for first in range(0, len(topics), 4):
            prompts = [chat(topic) for topic in topics[first : first + 4]]
            texts = [answer.text for answer in together(worker, prompts, max_new_tokens=TOKENS)]
            for place, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
                forget(worker)
                honest.append(largest_deviation(worker, prompt, text))
                forget(worker)
                leaking.append(largest_deviation(worker, f"{prompts[place - 1]}{texts[place - 1]}\n{prompt}", text))
        worker.close()
    honest.sort()
    leaking.sort()
    print(f"honest: {honest[len(honest) // 2]:.2f} in the middle, {honest[-2]:.2f} and {honest[-1]:.2f} at most")
    print(f"behind another's words: {leaking[0]:.2f} and {leaking[1]:.2f} at least")
    verdict("The bound", f"{MAX_DEVIATION}", "between the two", honest[-1] < MAX_DEVIATION < leaking[0])


if __name__ == "__main__":
    main()
