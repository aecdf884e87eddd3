"""Small requests that could stop a server for everybody, and what another client notices of them.

    .venv/bin/python benchmarks/hostile.py [--only NAME]

Each attack is one request to the demo model, or to a copy of it with a hostile chat template; one request is ordinary,
for comparison. Meanwhile another client asks for completions of two tokens. Its slowest answer may take three times as
long as the slowest of five before, and the main process may grow by 100 MB. The last column says how the attack ended.
A limit of 60 s ends an attack here.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figures import session, table, verdict
from program import MODEL, ROOT, Program, memory

sys.path.insert(0, str(ROOT))
from modules.formats.gguf_header import read_header

MAX_SLOWDOWN, MAX_GROWTH = 3.0, 100e6
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.02
QUIET = 5
"""Completions that are timed before each attack."""

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
DOUBLING = "\n".join(
    ["root ::= a0", *(f"a{i} ::= a{i + 1} a{i + 1} | a{i + 1}" for i in range(10)), 'a10 ::= "x" | ""']
)
FORKS = 'root ::= [a-z ] root "b" | [a-z ] root "c" | "x"'


def completion(prompt: object, **fields: object) -> tuple[str, dict[str, object]]:
    return COMPLETIONS, {"prompt": prompt, "max_tokens": 20, **fields}


def chat(content: str = "hi", messages: int = 1, **fields: object) -> tuple[str, dict[str, object]]:
    roles = ("user", "assistant")
    exchange = [{"role": roles[number % 2], "content": content} for number in range(messages)]
    return CHAT, {"messages": exchange, "max_tokens": 20, **fields}


ATTACKS: dict[str, tuple[str, object]] = {
    "grammar that doubles": completion("a", grammar_string=DOUBLING),
    "50,000 parentheses": completion("a", grammar_string="root ::= " + "(" * 50_000 + '"a"' + ")" * 50_000),
    "grammar that forks": completion("a", grammar_string=FORKS),
    "20,000 prompts": completion(["x"] * 20_000),
    "20,000 messages": chat("hello there", messages=19_999, truncation_length=500),
    "4,095 messages": chat("hello there", messages=4_095, truncation_length=500),
    "480 tokens, no attack": chat("the quick brown fox jumps " * 96),
    "2,000,000 tokens": ("/v1/internal/decode", {"tokens": [100] * 2_000_000}),
    "5 MB of text": completion("a" * 5_000_000),
    "5 MB in a message": chat("a" * 5_000_000),
    "5 MB to count": ("/v1/internal/token-count", {"text": "a" * 5_000_000}),
    "40 MB": completion("a" * 40_000_000),
    "10 million lists": (COMPLETIONS, b'{"prompt": [' + b"[]," * 10_000_000 + b"0]}"),
    "1.3 million lists": (COMPLETIONS, b'{"prompt": [' + b"[]," * 1_300_000 + b"0]}"),
    "nested JSON": completion("a", metadata=json.loads("[" * 500 + "]" * 500)),
}
TEMPLATES = {
    "a large power": "{{ (10 ** (10 ** 9)) % 7 }}",
    "a long text": "{{ 'a' * 10 ** 9 }}",
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubled texts": "{% set n = namespace(x='a') %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "lipsum": "{{ lipsum(n=99999) }}",
    "a wide number": "{{ '%0999999999d' % 1 }}",
    "a wide text": "{{ '{:>1000000000}'.format(1) }}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the name of the attacks to run")
    only = parser.parse_args().only
    with session("Hostile requests"), tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        (models / MODEL.name).symlink_to(MODEL)
        (models / "settings.yaml").touch()
        rows = []
        with Program(
            "--api", "--nowebui", "--model-dir", str(models), "--settings", str(models / "settings.yaml")
        ) as program:
            program.wait_for("/healthz")
            for name, model, (path, body) in attacks(models, only):
                program.load(model)
                rows.append(attack(program, name, path, body))
                print(*rows[-1], sep=" | ", flush=True)
        table(("attack", "quiet ms", "beside ms", "ratio", "grown MB", "seconds", "end"), rows)
    worst = max((row[3] for row in rows), default=0.0)
    grown = max((row[4] for row in rows), default=0)
    verdict("slowest completion beside an attack", f"{worst:.1f}", f"{MAX_SLOWDOWN}", worst <= MAX_SLOWDOWN)
    verdict("growth of the main process", f"{grown} MB", f"{MAX_GROWTH / 1e6:.0f} MB", grown <= MAX_GROWTH / 1e6)


def attacks(models: Path, only: str) -> Iterator[tuple[str, str, tuple[str, object]]]:
    """Yield name, model, and request of each attack; write the models with hostile templates."""
    for name, request in ATTACKS.items():
        if only in name:
            yield name, MODEL.name, request
    original = read_header(MODEL).chat_template.encode()
    for name, template in TEMPLATES.items():
        if only in name:
            copy = models / f"{name.replace(' ', '-')}.gguf"
            # Of equal length, so that nothing else in the file moves.
            padded = template.encode().ljust(len(original))
            copy.write_bytes(MODEL.read_bytes().replace(original, padded, 1))
            yield name, copy.name, chat()
            copy.unlink()


def attack(program: Program, name: str, path: str, body: object) -> tuple[Any, ...]:
    """Send one request, and time another client's completions until it is answered."""
    quiet = max(seconds_of_completion(program) for _ in range(QUIET))
    before, ended = memory(program.pid).resident, threading.Event()
    ends: list[str] = []
    # Beforehand: writing JSON in the thread would delay the other client.
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def send() -> None:
        ends.append(outcome(program, path, content))
        ended.set()

    began, peak, beside = time.perf_counter(), before, []
    threading.Thread(target=send, daemon=True).start()
    while True:
        beside.append(seconds_of_completion(program))
        peak = max(peak, memory(program.pid).resident)
        if ended.wait(PAUSE_SECONDS):
            break
    seconds = time.perf_counter() - began
    ratio = max(beside) / quiet
    grown = round((peak - before) / 1e6)
    return name, round(quiet * 1000), round(max(beside) * 1000), round(ratio, 1), grown, round(seconds, 1), ends[0]


def seconds_of_completion(program: Program) -> float:
    """Return how long it takes to get a completion, repeated until there is one: a model may be loaded again."""
    body = json.dumps({"prompt": "Once upon a time", "max_tokens": 2, "temperature": 0}).encode()
    began = time.perf_counter()
    while not (end := outcome(program, COMPLETIONS, body)).startswith("200"):
        if time.perf_counter() - began > 2 * PATIENCE_SECONDS:
            sys.exit(f"no completion any more: {end}")
        time.sleep(PAUSE_SECONDS)
    return time.perf_counter() - began


def outcome(program: Program, path: str, body: bytes) -> str:
    """Return the status of the answer and the beginning of its message."""
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        return f"{response.status} {answer.get('error', {}).get('message', 'answered')[:110]}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{type(error).__name__}: {error}"[:110]
    finally:
        connection.close()


if __name__ == "__main__":
    main()
