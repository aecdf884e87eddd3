"""Answers under random JSON schemas: whether each validates, and what a schema costs in decode speed.

    .venv/bin/python benchmarks/schemas.py [--schemas 200] [--seeds 5] [--loader llama.cpp] [--model MODEL]

It needs the package jsonschema, which the tests do not: `.venv/bin/pip install jsonschema`. An answer that meets the
limit of tokens is no whole JSON, and counts as cut.

Speeds are those of streamed answers, without the first token, to one client. Answers without a schema and under the
same one alternate, and with llama.cpp those of llama-server under that schema, if it has been built (README.md).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import random
import statistics
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from figures import session, table, verdict
from peers import PROGRAMS, LlamaServer, ask
from program import MODEL, Program, explain

TOKENS = 400
CLIENTS = 4
MIN_RATIO = 0.85
MIN_SERVER_RATIO = 1.0
SPEED_ROUNDS = 7
SPEED_TOKENS = 257
CONTEXT = 2048
PROMPT = "An example of the data as JSON:\n"
PEOPLE = {
    "type": "array",
    "minItems": 40,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"enum": ["Paris", "Oslo"]}},
        "required": ["name", "age", "city"],
        "additionalProperties": False,
    },
}

Schema = dict[str, Any]


# -- random schemas ----------------------------------------------------------------------------------------------------


def random_schema(rng: random.Random) -> Schema:
    """Return the schema of an object of up to three levels, by the features that llguidance has."""
    schema = _object(rng, 2)
    if rng.random() < 0.3:
        schema["$defs"] = {"part": _leaf(rng)}
        schema["properties"]["shared"] = {"$ref": "#/$defs/part"}
        schema["required"].append("shared")
    return schema


def _any(rng: random.Random, depth: int) -> Schema:
    if not depth or rng.random() < 0.4:
        return _leaf(rng)
    return rng.choice((_object, _array, _choice))(rng, depth)


def _object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(["id", "name", "价格", "tags", "a b", "x-y", "note"], rng.randint(1, 4))
    required = [name for name in names if rng.random() < 0.7]
    properties = {name: _any(rng, depth - 1) for name in names}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _array(rng: random.Random, depth: int) -> Schema:
    least = rng.randint(0, 2)
    return {"type": "array", "items": _any(rng, depth - 1), "minItems": least, "maxItems": least + rng.randint(0, 3)}


def _choice(rng: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(rng, depth - 1), _any(rng, depth - 1)]}


def _leaf(rng: random.Random) -> Schema:
    low = rng.randint(-50, 50)
    shapes: tuple[Callable[[], Schema], ...] = (
        lambda: {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 1000)},
        lambda: {"type": "number", "minimum": low, "maximum": low + 10},
        lambda: {"type": "string", "maxLength": rng.randint(1, 20)},
        lambda: {"type": "string", "pattern": rng.choice(("^[a-z]{2,5}$", "^\\d{4}-\\d{2}$", "^(yes|no)$"))},
        lambda: {"type": "string", "format": rng.choice(("date", "uuid", "ipv4"))},
        lambda: {"enum": rng.sample([1, "one", None, True, 2.5, "二"], rng.randint(1, 4))},
        lambda: {"const": rng.choice(["fixed", 7, None, [1, 2], {"a": 1}])},
        lambda: {"type": ["boolean", "null"]},
    )
    return rng.choice(shapes)()


# -- answers -----------------------------------------------------------------------------------------------------------


def complete(program: Program, **fields: Any) -> tuple[str, str]:
    """Return the text of a completion and why it ended."""
    body = {"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 1, **fields}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{program.url}/v1/completions", json.dumps(body).encode(), headers)
    try:
        (choice,) = json.load(urllib.request.urlopen(request))["choices"]
    except urllib.error.HTTPError as error:
        return error.read().decode(), "refused"
    return choice["text"], choice["finish_reason"]


def outcome(program: Program, schema: Schema, seed: int) -> str:
    """Ask for JSON of that schema; return "valid", "cut", or what is wrong."""
    jsonschema = importlib.import_module("jsonschema")
    text, reason = complete(program, json_schema=schema, seed=seed)
    if reason == "length":
        return "cut"
    try:
        jsonschema.validate(json.loads(text), schema)
    except (ValueError, jsonschema.ValidationError) as error:
        print(f"{json.dumps(schema)}\n  -> {text!r}\n  {str(error).splitlines()[0]}")
        return "refused" if reason == "refused" else "invalid"
    return "valid"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--loader", default="llama.cpp")
    parser.add_argument("--model", default=str(MODEL))
    args = parser.parse_args()
    try:
        importlib.import_module("jsonschema")
    except ImportError:
        sys.exit("This benchmark needs jsonschema: .venv/bin/pip install jsonschema")
    rng = random.Random(1)
    schemas = [random_schema(rng) for _ in range(args.schemas)]
    with session(f"JSON schemas: {args.loader}"), contextlib.ExitStack() as stack:
        flags = ("--api", "--nowebui", "--model", args.model, "--loader", args.loader)
        program = stack.enter_context(Program(*flags))
        while json.loads(program.wait_for("/v1/internal/model/info"))["model_name"] in (None, "None"):
            time.sleep(0.1)
        speeds = measure_speeds(program.port, _llama_server(stack, args))
        with ThreadPoolExecutor(CLIENTS) as pool:
            jobs = [pool.submit(outcome, program, schema, seed) for schema in schemas for seed in range(args.seeds)]
            outcomes = Counter(job.result() for job in jobs)
    table(["outcome", "answers"], sorted(outcomes.items()))
    wrong = outcomes["invalid"] + outcomes["refused"]
    verdict("Answers that do not validate", f"{wrong} of {len(jobs)}", "0 at most", not wrong)
    report_speeds(speeds)


# -- speed -------------------------------------------------------------------------------------------------------------

OURS, OURS_BOUND, THEIRS_BOUND = "ours", "ours under a schema", "llama-server under it"


def _llama_server(stack: contextlib.ExitStack, args: argparse.Namespace) -> int:
    """Start llama-server with the same file and threads; return its port, 0 if there is none to compare with."""
    program = PROGRAMS / "llama-server"
    if args.loader != "llama.cpp" or not program.is_file():
        print("llama-server is not compared: it has not been built, or the loader is another one.")
        return 0
    return stack.enter_context(LlamaServer(program, explain(Path(args.model)), 1, CONTEXT)).port


def measure_speeds(ours: int, theirs: int) -> dict[str, list[float]]:
    """Return the tokens per second of each side in each round. The first round, which is left out, warms up."""
    sides: dict[str, tuple[int, Schema]] = {
        OURS: (ours, {"ignore_eos": True}),
        OURS_BOUND: (ours, {"json_schema": PEOPLE}),
        **({THEIRS_BOUND: (theirs, {"json_schema": PEOPLE})} if theirs else {}),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(SPEED_ROUNDS + 1):
        for name, (port, fields) in sides.items():
            body = {"prompt": PROMPT, "max_tokens": SPEED_TOKENS, "temperature": 0, **fields}
            answer = ask(port, "/v1/completions", body)
            if answer.tokens != SPEED_TOKENS:
                sys.exit(f"An answer ended after {answer.tokens} tokens, so that speeds cannot be compared.")
            rates[name].append(answer.rate)
    return {name: measured[1:] for name, measured in rates.items()}


def report_speeds(rates: dict[str, list[float]]) -> None:
    table(["tokens/s", "median", "lowest", "highest"], [(name, *_spread(all_)) for name, all_ in rates.items()])
    for other, limit in ((OURS, MIN_RATIO), (THEIRS_BOUND, MIN_SERVER_RATIO)):
        if other in rates:
            ratios = [bound / rate for bound, rate in zip(rates[OURS_BOUND], rates[other], strict=True)]
            middle, low, high = _spread(ratios)
            measured = f"{middle:.2f} ({low:.2f}-{high:.2f})"
            verdict(f"Speed under a schema, relative to {other}", measured, f"{limit} at least", middle >= limit)


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


if __name__ == "__main__":
    main()
