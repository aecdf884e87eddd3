"""Deviation of answers generated in a batch from answers generated alone, with and without a simulated cache leak.

Four prompts at a time are answered in one batch. Each answer is then replayed alone (`largest_deviation` in
tests/support/llama_requests.py), and once more after the text of another conversation, as if that had leaked into its
cache. Takes two minutes."""

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
    isolated: list[float] = []
    leaked: list[float] = []
    with session(f"Batches of four: {model.name}, {len(topics)} answers of {TOKENS} tokens"):
        worker = WorkerProcess()
        load(worker, model, n_ctx=N_CTX, parallel=4, threads=THREADS, threads_batch=THREADS)
        for first in range(0, len(topics), 4):
            prompts = [chat(topic) for topic in topics[first : first + 4]]
            texts = [answer.text for answer in together(worker, prompts, max_new_tokens=TOKENS)]
            for index, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
                forget(worker)
                isolated.append(largest_deviation(worker, prompt, text))
                forget(worker)
                other_conversation = f"{prompts[index - 1]}{texts[index - 1]}\n"
                leaked.append(largest_deviation(worker, f"{other_conversation}{prompt}", text))
        worker.close()
    isolated.sort()
    leaked.sort()
    median = isolated[len(isolated) // 2]
    print(f"alone: median {median:.2f}, two largest {isolated[-2]:.2f} and {isolated[-1]:.2f}")
    print(f"after another conversation: two smallest {leaked[0]:.2f} and {leaked[1]:.2f}")
    verdict("Bound", f"{MAX_DEVIATION}", "between the two", isolated[-1] < MAX_DEVIATION < leaked[0])


if __name__ == "__main__":
    main()
