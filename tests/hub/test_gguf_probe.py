"""The header of a remote GGUF file equals that of the local file, and only a few bytes are fetched."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from modules.catalog.catalog import Catalog
from modules.core.errors import DamagedModel, IncompleteModel, ModelProblem
from modules.engines.llamacpp.memory import estimate
from modules.formats.gguf_header import GgufHeader, read_header
from modules.hub.client import HubClient
from modules.hub.errors import MirrorUnreachable, Stopped
from modules.hub.gguf_probe import FIRST_FETCH, read_remote_header
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from tests.support.gguf_files import ARRAY, MODEL, U8, As, Tensor, array, gguf
from tests.support.hub_server import Content, HubServer

LARGE = Tensor("blk.0.ffn_up.weight", (4096, 4096))  # 64 MiB of zeros, of which 64 KiB are written
PART = "m-Q8_0-{}-of-00002.gguf"


def read_remote(served: HubServer, **files: Content) -> GgufHeader:
    """Return the header of a model with these files, in order. `served.sent` then counts the bytes fetched."""
    served.add("user/model", files)
    return read_header_from_hub(served)


def read_header_from_hub(served: HubServer) -> GgufHeader:
    with closing(HubClient(served.url, read_seconds=1)) as hub:
        repository = hub.repository("user/model", "main")
        served.sent = 0
        with closing(hub.source(repository)) as source:
            return read_remote_header(source, repository.files)


def gguf_with_vocabulary(token_count: int) -> bytes:
    tokens = [f"token number {number}" for number in range(token_count)]
    return gguf({**MODEL, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.eos_token_id": token_count - 1})


def test_the_header_of_a_small_file_equals_that_of_the_local_file(served: HubServer, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf())
    assert read_remote(served, **{"m.gguf": gguf()}) == read_header(tmp_path / "m.gguf")


def test_few_bytes_are_fetched_for_the_header_of_the_demo_model(served: HubServer, smollm2: Path) -> None:
    header = read_remote(served, **{smollm2.name: smollm2})
    assert header == read_header(smollm2)
    assert served.sent <= 4 << 20 < smollm2.stat().st_size
    options = option_values(resolve(LOADERS["llama.cpp"], model={}, saved={}, flags={}, form={"n_ctx": 2048}))
    assert estimate(header, options).total > smollm2.stat().st_size


def test_fetches_grow_with_the_header(served: HubServer, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_with_vocabulary(150_000))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + (256 << 20))
    header = read_remote(served, **{"m.gguf": path})
    assert header == read_header(path) and header.special_tokens["eos_token"] == "token number 149999"
    assert served.sent <= 9 << 20
    assert len(served.requests(origin="cdn")) <= 5


def test_the_header_is_read_from_a_mirror_that_ignores_ranges(served: HubServer, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_with_vocabulary(100_000) + bytes(8 << 20))
    served.fault("m.gguf", origin="cdn", ignore_range=True)
    assert read_remote(served, **{"m.gguf": path}) == read_header(path)


def test_the_sizes_of_split_model_parts_are_summed(served: HubServer, tmp_path: Path) -> None:
    parts = {
        PART.format("00001"): gguf({**MODEL, "split.count": 2, "split.no": 0}, [Tensor("blk.0.a", (64,))]),
        PART.format("00002"): gguf(
            {"split.count": 2, "split.no": 1}, [Tensor("blk.0.b", (64,)), Tensor("output.w", (32,))]
        ),
    }
    for name, content in parts.items():
        (tmp_path / name).write_bytes(content)
    header = read_remote(served, **parts)
    (record,) = Catalog(tmp_path).models()
    assert record.header == header
    assert header.sizes == {"blk.0": 512, "output": 128} and header.size == sum(map(len, parts.values()))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"<html>log in</html>", DamagedModel),
        (gguf()[:-100], IncompleteModel),
        (gguf(tensors=[LARGE]), IncompleteModel),
        (b"", IncompleteModel),
        (gguf(entries=99), DamagedModel),
    ],
)
def test_an_invalid_header_is_reported(served: HubServer, content: bytes, problem: type[ModelProblem]) -> None:
    with pytest.raises(problem, match=r"m\.gguf"):
        read_remote(served, **{"m.gguf": content})


def test_an_endless_header_is_not_fetched(served: HubServer, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf({"a": As(ARRAY, array(U8, b"", count=3 << 30)), "general.name": "x"}))
    with path.open("r+b") as file:
        file.truncate(4 << 30)
    commit = served.add("user/model", {"m.gguf": b"x" * 20_000})
    files = served.repos["user/model"].commits[commit]
    # Replace the entry directly: hashing 4 GiB would take long, and the hash is not checked.
    files["m.gguf"] = replace(files["m.gguf"], content=path, size=4 << 30)
    with pytest.raises(DamagedModel, match="longer than 32 MiB"):
        read_header_from_hub(served)
    assert served.sent < 2 * FIRST_FETCH


def test_a_broken_connection_is_reported(served: HubServer) -> None:
    served.fault("m.gguf", origin="cdn", stall_after=100)
    with pytest.raises(MirrorUnreachable):
        read_remote(served, **{"m.gguf": gguf({**MODEL, "general.name": "x" * 20_000})})


def test_a_slow_mirror_times_out_at_the_deadline(served: HubServer) -> None:
    served.add("user/model", {"m.gguf": gguf_with_vocabulary(50_000)})
    served.fault("m.gguf", origin="cdn", rate=2_000)
    started = time.monotonic()
    with closing(HubClient(served.url)) as hub:
        repository = hub.repository("user/model", "main")
        with closing(hub.source(repository)) as source, pytest.raises(MirrorUnreachable, match="timeout"):
            read_remote_header(source, repository.files, seconds=0.5)
    assert time.monotonic() - started < 3
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    for timer in timers:
        timer.join(1)  # A timer that has fired or was cancelled takes a moment to end.
    assert not any(timer.is_alive() for timer in timers)


def test_reading_a_header_ends_when_its_source_is_closed(served: HubServer) -> None:
    served.add("user/model", {"m.gguf": gguf()})
    with closing(HubClient(served.url)) as hub:
        repository = hub.repository("user/model", "main")
        source = hub.source(repository)
        source.close()
        with pytest.raises(Stopped):
            read_remote_header(source, repository.files)
