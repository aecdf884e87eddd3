"""Every sampler of the loader Remote arrives at a real llama-server: what it understood is read from its last event.

`--url` is a server that runs already. Otherwise one is started with the demo model: the program at `--program`, or the
server of the package xllamacpp in the environment at `--xllamacpp`. Takes a quarter of a minute."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from figures import session, verdict
from program import MODEL, ROOT, free_port

sys.path.insert(0, str(ROOT))
from modules.core.errors import WebUIError
from modules.core.prompt import Prompt
from modules.engines.served.discovery import Choices, discover
from modules.engines.served.prompts import served_prompt
from modules.engines.served.server_connection import ServerConnection
from modules.engines.served.server_kind import GenerateRequest, ServedPrompt
from modules.engines.served.target import Target
from modules.loaders.generation_settings import resolve
from modules.loaders.server_samplers import SERVER_SAMPLERS

VALUES: Mapping[str, Any] = {
    "temperature": 0.83,
    "top_p": 0.91,
    "min_p": 0.03,
    "top_k": 37,
    "typical_p": 0.93,
    "top_n_sigma": 1.5,
    "xtc_threshold": 0.21,
    "xtc_probability": 0.4,
    "repetition_penalty": 1.13,
    "repetition_penalty_range": 77,
    "frequency_penalty": 0.25,
    "presence_penalty": 0.35,
    "dynamic_temperature": True,
    "dynatemp_low": 0.5,
    "dynatemp_high": 1.7,
    "dynatemp_exponent": 1.2,
    "mirostat_mode": 2,
    "mirostat_tau": 4.5,
    "mirostat_eta": 0.2,
    "dry_multiplier": 0.7,
    "dry_base": 1.6,
    "dry_allowed_length": 3,
    "dry_sequence_breakers": '"x", "\\n"',
    "seed": 4321,
    "ban_eos_token": True,
    "custom_token_bans": "11,12",
    "grammar_string": "root ::= [a-z ]+",
}
BESIDE = {"logit_bias", "json_schema"}
"""Parameters of the API alone, which are tried by themselves."""
ROUNDING = 1e-6
START_SECONDS = 60
XLLAMACPP = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx, params.n_parallel = sys.argv[1], int(sys.argv[2]), 2048, 2
params.warmup = False
server = xllamacpp.Server(params)
while True:
    time.sleep(1)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--url", help="of a llama-server")
    choice.add_argument("--program", type=Path, help="llama-server")
    choice.add_argument("--xllamacpp", type=Path, help="folder of an environment with that package")
    args = parser.parse_args()
    with session("Samplers of the loader Remote at a llama-server"), server_at(args) as url:
        connection = ServerConnection(Target.parse(url))
        kind = discover(connection.ask, Choices())
        print(f"{kind.facts.kind} {kind.facts.version}, {kind.facts.slots} slots of {kind.facts.context_length} tokens")
        missing = SERVER_SAMPLERS["llama-server"] - VALUES.keys() - BESIDE
        verdict("Samplers tried", str(len(VALUES)), "all that are declared", not missing)
        params = resolve({**VALUES, "max_new_tokens": 3}, ["STOP"], None, {"13": 2.5})
        request = kind.request(served_prompt(Prompt("Hello"), kind, params), params)
        compare(request, understood(url, request))
        schema = {**resolve({"max_new_tokens": 40, "temperature": 0}), "answer_grammar": ["json", {"type": "object"}]}
        request = kind.request(served_prompt(Prompt("Hello"), kind, schema), schema)
        verdict("json_schema", "a grammar", "a grammar", bool(understood(url, request)["grammar"]))
        one = {"role": "user", "content": "Count from one to ten in words."}
        talk = resolve({"max_new_tokens": 20, "temperature": 0})
        text = written(url, kind.request(ServedPrompt(messages=(one,)), talk))
        cut = text.rfind(" ", 0, len(text) // 2)
        begun = (one, {"role": "assistant", "content": text[:cut]})
        rest = written(url, kind.request(ServedPrompt(messages=begun, continues=True), talk))
        verdict("Continue of messages", repr(rest[:20]), repr(text[cut:][:20]), rest.startswith(text[cut:]))
        long = resolve({"max_new_tokens": 900, "ban_eos_token": True})
        idle = stops_within(url, kind.request(served_prompt(Prompt("Once"), kind, long), long))
        verdict("Idle after Stop", f"{idle:.2f} s", "1 s", idle < 1)
        connection.close()


@contextlib.contextmanager
def server_at(args: argparse.Namespace) -> Iterator[str]:
    """Yield the address of the server, which ends with the block if it was started here."""
    if args.url:
        yield args.url
        return
    port = str(free_port())
    if args.program:
        command = [str(args.program), "-m", str(MODEL), "--port", port, "-c", "2048", "-np", "2", "--slots"]
    else:
        command = [str(args.xllamacpp / "bin" / "python"), "-c", XLLAMACPP, str(MODEL), port]
    folder = str(args.program.parent) if args.program else ""
    environment = os.environ | ({"LD_LIBRARY_PATH": folder} if folder else {})
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield wait_for(f"http://127.0.0.1:{port}")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def wait_for(url: str) -> str:
    connection = ServerConnection(Target.parse(url))
    try:
        for _ in range(START_SECONDS * 4):
            with contextlib.suppress(WebUIError):
                if connection.ask("/health").is_ok:
                    return url
            time.sleep(0.25)
    finally:
        connection.close()
    sys.exit("the server did not start")


def events(url: str, request: GenerateRequest) -> Iterator[bytes]:
    """Yield the data of the events of an answer."""
    body = json.dumps(request.body).encode()
    call = urllib.request.Request(f"{url}{request.path}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(call) as response:
        for line in response:
            if line.startswith(b"data: "):
                yield line[len(b"data: ") :].strip()


def understood(url: str, request: GenerateRequest) -> dict[str, Any]:
    """Return the settings with which the server says that it has generated."""
    settings: dict[str, Any] = json.loads(list(events(url, request))[-1])["generation_settings"]
    return settings


def written(url: str, request: GenerateRequest) -> str:
    return "".join(request.read(data).text for data in events(url, request))


def compare(request: GenerateRequest, settings: Mapping[str, Any]) -> None:
    """Print every field that the server has understood otherwise."""
    sent = {key: value for key, value in request.body.items() if key not in ("prompt", "cache_prompt", "logit_bias")}
    wrong = [
        f"{key}: {value!r} became {settings.get(key)!r}"
        for key, value in sent.items()
        if not same(value, settings.get(key))
    ]
    for line in wrong:
        print(line)
    verdict("Fields understood", f"{len(sent) - len(wrong)} of {len(sent)}", "all", not wrong)
    found = {entry["token"]: entry["bias"] for entry in settings["logit_bias"]}
    biased = found.get(13) == 2.5 and all(found.get(token, 0) is None for token in (11, 12))
    verdict("Biases and bans", str(len(found)), "one bias, two bans, the end tokens", biased and len(found) > 3)


def same(sent: Any, got: Any) -> bool:
    numbers = isinstance(sent, (int, float)) and isinstance(got, (int, float))
    return abs(sent - got) < ROUNDING * max(abs(sent), 1) if numbers else bool(sent == got)


def stops_within(url: str, request: GenerateRequest) -> float:
    """Return the seconds until all slots are idle after a connection was closed in the middle of an answer."""
    stream = events(url, request)
    for _ in range(3):
        next(stream)
    if not is_processing(url):
        sys.exit("the answer ended before it could be stopped")
    stream.close()  # type: ignore[attr-defined]
    began = time.perf_counter()
    while is_processing(url) and time.perf_counter() - began < 10:
        time.sleep(0.02)
    return time.perf_counter() - began


def is_processing(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/slots") as response:
        return any(slot["is_processing"] for slot in json.load(response))


if __name__ == "__main__":
    main()
