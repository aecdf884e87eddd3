"""Answers under random JSON schemas: whether each validates, and what the schema costs in decode speed.

    .venv/bin/python benchmarks/schemas.py [--schemas 200] [--seeds 5] [--loader llama.cpp] [--model MODEL]

It needs the package jsonschema, which the tests do not: `.venv/bin/pip install jsonschema`. An answer that meets the
limit of tokens is no whole JSON, and counts as cut.
"""

from __future__ import annotations

import argparse
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
from typing import Any

from figures import session, table, verdict
from program import MODEL, Program

TOKENS = 400
CLIENTS = 4
MIN_RATIO = 0.85
SPEED_ROUNDS = 7
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


def complete(program: Program, **fields: Any) -> tuple[str, str, float]:
    """Return the text of a completion, why it ended, and its tokens per second."""
    body = {"prompt": "An example of the data as JSON:\n", "max_tokens": TOKENS, "temperature": 1, **fields}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{program.url}/v1/completions", json.dumps(body).encode(), headers)
    began = time.perf_counter()
    try:
        answer = json.load(urllib.request.urlopen(request))
    except urllib.error.HTTPError as error:
        return error.read().decode(), "refused", 0.0
    (choice,) = answer["choices"]
    return choice["text"], choice["finish_reason"], answer["usage"]["completion_tokens"] / (time.perf_counter() - began)


def outcome(program: Program, schema: Schema, seed: int) -> str:
    """Ask for JSON of that schema; return "valid", "cut", or what is wrong."""
    jsonschema = importlib.import_module("jsonschema")
    text, reason, _ = complete(program, json_schema=schema, seed=seed)
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
    with (
        session(f"JSON schemas: {args.loader}"),
        Program("--api", "--model", args.model, "--loader", args.loader) as program,
    ):
        while json.loads(program.wait_for("/v1/internal/model/info"))["model_name"] in (None, "None"):
            time.sleep(0.1)
        ratios = speed_ratios(program)
        with ThreadPoolExecutor(CLIENTS) as pool:
            jobs = [pool.submit(outcome, program, schema, seed) for schema in schemas for seed in range(args.seeds)]
            outcomes = Counter(job.result() for job in jobs)
    table(["outcome", "answers"], sorted(outcomes.items()))
    wrong = outcomes["invalid"] + outcomes["refused"]
    verdict("Answers that do not validate", f"{wrong} of {len(jobs)}", "0 at most", not wrong)
    ratio = statistics.median(ratios)
    verdict("Decode speed under a schema", f"{ratio:.2f} of without", f"{MIN_RATIO} at least", ratio >= MIN_RATIO)


def speed_ratios(program: Program) -> list[float]:
    """Return the decode speed under a schema relative to that without one, of pairs of answers."""
    ratios = []
    for seed in range(SPEED_ROUNDS + 1):
        *_, free = complete(program, seed=seed, ban_eos_token=True)
        *_, bound = complete(program, seed=seed, json_schema=PEOPLE)
        if seed:  # the first one warms up
            ratios.append(bound / free)
    return ratios


if __name__ == "__main__":
    main()
