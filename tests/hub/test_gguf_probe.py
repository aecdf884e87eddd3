"""The header of a remote GGUF file equals that of the local file, and needs few of its bytes."""

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
from modules.hub.errors import MirrorUnreachable
from modules.hub.gguf_probe import FIRST_FETCH, read_remote_header
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from tests.support.gguf_files import ARRAY, MODEL, U8, As, Tensor, array, gguf
from tests.support.hub_server import Content
from tests.support.hub_server import HubServer as Served

LARGE = Tensor("blk.0.ffn_up.weight", (4096, 4096))  # 64 MiB of zeros, of which 64 KiB are written
PART = "m-Q8_0-{}-of-00002.gguf"


def remote(served: Served, **files: Content) -> GgufHeader:
    """Return the header of a model of these files, in order; `served.sent` then counts the bytes it took."""
    served.add("user/model", files)
    return headed(served)


def headed(served: Served) -> GgufHeader:
    with closing(HubClient(served.url, read_seconds=1)) as hub:
        repository = hub.repository("user/model", "main")
        served.sent = 0
        with closing(hub.source(repository)) as source:
            return read_remote_header(source, repository.files)


def with_vocabulary(tokens: int) -> bytes:
    words = [f"token number {number}" for number in range(tokens)]
    return gguf({**MODEL, "tokenizer.ggml.tokens": words, "tokenizer.ggml.eos_token_id": tokens - 1})


def test_a_small_file_is_read_whole(served: Served, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf())
    assert remote(served, **{"m.gguf": gguf()}) == read_header(tmp_path / "m.gguf")


def test_the_demo_models_header_needs_few_bytes(served: Served, smollm2: Path) -> None:
    found = remote(served, **{smollm2.name: smollm2})
    assert found == read_header(smollm2)
    assert served.sent <= 4 << 20 < smollm2.stat().st_size
    options = option_values(resolve(LOADERS["llama.cpp"], model={}, saved={}, flags={}, form={"n_ctx": 2048}))
    assert estimate(found, options).total > smollm2.stat().st_size


def test_fetches_grow_with_the_header(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(with_vocabulary(150_000))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + (256 << 20))
    found = remote(served, **{"m.gguf": path})
    assert found == read_header(path) and found.eos_token == "token number 149999"
    assert served.sent <= 9 << 20
    assert len(served.requests(origin="cdn")) <= 5


def test_a_mirror_that_ignores_ranges_works_too(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(with_vocabulary(100_000) + bytes(8 << 20))
    served.fault("m.gguf", origin="cdn", ignore_range=True)
    assert remote(served, **{"m.gguf": path}) == read_header(path)


def test_the_parts_of_a_split_model_are_counted_together(served: Served, tmp_path: Path) -> None:
    parts = {
        PART.format("00001"): gguf({**MODEL, "split.count": 2, "split.no": 0}, [Tensor("blk.0.a", (64,))]),
        PART.format("00002"): gguf(
            {"split.count": 2, "split.no": 1}, [Tensor("blk.0.b", (64,)), Tensor("output.w", (32,))]
        ),
    }
    for name, content in parts.items():
        (tmp_path / name).write_bytes(content)
    found = remote(served, **parts)
    (record,) = Catalog(tmp_path).models()
    assert record.header == found
    assert found.sizes == {"blk.0": 512, "output": 128} and found.size == sum(map(len, parts.values()))


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
def test_an_invalid_header_is_reported(served: Served, content: bytes, problem: type[ModelProblem]) -> None:
    with pytest.raises(problem, match=r"m\.gguf"):
        remote(served, **{"m.gguf": content})


def test_an_endless_header_is_not_fetched(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf({"a": As(ARRAY, array(U8, b"", count=3 << 30)), "general.name": "x"}))
    with path.open("r+b") as file:
        file.truncate(4 << 30)
    commit = served.add("user/model", {"m.gguf": b"x" * 20_000})
    files = served.repos["user/model"].commits[commit]
    # The hash of 4 GiB takes long, and nobody looks at it here.
    files["m.gguf"] = replace(files["m.gguf"], content=path, size=4 << 30)
    with pytest.raises(DamagedModel, match="longer than 32 MiB"):
        headed(served)
    assert served.sent < 2 * FIRST_FETCH


def test_a_broken_connection_is_reported(served: Served) -> None:
    served.fault("m.gguf", origin="cdn", stall_after=100)
    with pytest.raises(MirrorUnreachable):
        remote(served, **{"m.gguf": gguf({**MODEL, "general.name": "x" * 20_000})})


def test_a_slow_mirror_is_given_up_at_the_deadline(served: Served) -> None:
    served.add("user/model", {"m.gguf": with_vocabulary(50_000)})
    served.fault("m.gguf", origin="cdn", rate=2_000)
    begun = time.monotonic()
    with closing(HubClient(served.url)) as hub:
        repository = hub.repository("user/model", "main")
        with closing(hub.source(repository)) as source, pytest.raises(MirrorUnreachable, match="timeout"):
            read_remote_header(source, repository.files, seconds=0.5)
    assert time.monotonic() - begun < 3
    timers = [each for each in threading.enumerate() if isinstance(each, threading.Timer)]
    for timer in timers:
        timer.join(1)  # one that has gone off, or was called off, takes a moment to end
    assert not any(timer.is_alive() for timer in timers)
