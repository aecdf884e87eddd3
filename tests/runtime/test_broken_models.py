"""Broken models are refused with the cause in both languages, and the next load works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.core.errors import DamagedModel, IncompleteModel, Unsupported, UnsupportedModel, WebUIError
from modules.core.worker_errors import LoadFailed
from modules.planning.load_request import LoadRequest
from tests.support.gguf_files import MODEL, TENSORS, As, Raw, Tensor, gguf

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
Maker = Callable[[Path, bytes], str]


def file(content: Callable[[bytes], bytes], name: str = "x.gguf") -> Maker:
    """Return a function that makes a file from the bytes of the real model."""

    def make(folder: Path, real: bytes) -> str:
        (folder / name).write_bytes(content(real))
        return name

    return make


def with_replacement(before: bytes, after: bytes) -> Maker:
    """Return a function that makes the real model with one word of its header replaced."""

    def replace(real: bytes) -> bytes:
        assert before in real and len(before) == len(after)
        return real.replace(before, after, 1)

    return file(replace)


def small(**changes: object) -> Maker:
    """Return a function that makes a small GGUF file with these changes of its metadata; `__` stands for a dot."""
    metadata = {key.replace("__", "."): value for key, value in changes.items()}
    return file(lambda _: gguf({**MODEL, **metadata}))


def folder_of(**files: object) -> Maker:
    """Return a function that makes a folder. "config" and "index" are JSON, "weights" bytes of model.safetensors."""
    names = {"config": "config.json", "index": "model.safetensors.index.json", "weights": "model.safetensors"}

    def make(folder: Path, _real: bytes) -> str:
        (folder / "x").mkdir()
        for kind, content in files.items():
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            (folder / "x" / names[kind]).write_bytes(raw)
        return "x"

    return make


def single_part(folder: Path, real: bytes) -> str:
    (folder / "x-00001-of-00003.gguf").write_bytes(real)
    return "x-00001-of-00003.gguf"


def single_shard(folder: Path, _real: bytes) -> str:
    folder_of(config=CONFIG, index={"weight_map": {"a": "model-00001-of-00002.safetensors", "b": SECOND}})(folder, b"")
    (folder / "x" / "model-00001-of-00002.safetensors").write_bytes(SAFETENSORS)
    return "x"


SECOND = "model-00002-of-00002.safetensors"
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
SAFETENSORS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(4)

BROKEN: dict[str, tuple[Maker, type[WebUIError], str, str]] = {
    "empty": (file(lambda real: b""), IncompleteModel, "empty", "空"),
    "cut in the header": (
        file(lambda real: real[:5000]),
        DamagedModel,
        "header is damaged or incomplete",
        "文件头损坏或不完整",
    ),
    "cut in the weights": (file(lambda real: real[:-1000]), IncompleteModel, "bytes", "字节"),
    "wrong magic": (file(lambda real: b"GGML" + real[4:]), DamagedModel, "GGUF", "GGUF"),
    "a web page": (file(lambda real: b"<!DOCTYPE html><html>not found</html>"), DamagedModel, "web page", "网页"),
    "a git-lfs pointer": (
        file(lambda real: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        IncompleteModel,
        "git-lfs pointer",
        "git-lfs 指针",
    ),
    "a future version": (file(lambda real: gguf(version=9)), UnsupportedModel, "version 9", "9"),
    "a single part of three": (single_part, IncompleteModel, "2 of 3 parts are missing", "缺少 2 个"),
    "too many tensors declared": (file(lambda real: gguf(count=99)), DamagedModel, "and 99 tensors", "99 个张量"),
    "an endless string": (
        file(lambda real: gguf({**MODEL, "general.name": As(8, Raw((1 << 60).to_bytes(8, "little")))})),
        DamagedModel,
        "",
        "",
    ),
    "a tensor beyond the end of the file": (
        file(lambda real: gguf(tensors=[*TENSORS, Tensor("far", (64,), 0, offset=1 << 40)])),
        IncompleteModel,
        "truncated",
        "截断",
    ),
    "an unknown architecture": (
        small(general__architecture="llama99"),
        LoadFailed,
        "does not support its architecture (llama99)",
        "不支持其架构（llama99）",
    ),
    "an unknown tokenizer": (
        with_replacement(b"\x06\0\0\0\0\0\0\0smollm", b"\x06\0\0\0\0\0\0\0smallm"),
        LoadFailed,
        "does not support its tokenizer (smallm)",
        "不支持其词符化器（smallm）",
    ),
    "no tokenizer": (
        with_replacement(b"tokenizer.ggml.model", b"tokenizer.ggml.modex"),
        LoadFailed,
        "tokenizer is missing",
        "缺少词符化器",
    ),
    "a layer is missing": (
        with_replacement(b"blk.3.attn_q.weight", b"blk.3.attn_x.weight"),
        LoadFailed,
        "lacks something that its architecture needs (blk.3.attn_q.weight)",
        "缺少该架构所需的内容（blk.3.attn_q.weight）",
    ),
    "a hyperparameter is missing": (
        small(),
        LoadFailed,
        "needs (llama.attention.layer_norm_rms_epsilon)",
        "（llama.attention.layer_norm_rms_epsilon）",
    ),
    "shapes that do not match": (
        with_replacement(b"llama.feed_forward_length", b"llama.feed_forward_lengtx"),
        LoadFailed,
        "does not match its weights (blk.0.ffn_gate.weight)",
        "与权重（blk.0.ffn_gate.weight）不符",
    ),
    "weights of a folder cut": (
        folder_of(config=CONFIG, weights=SAFETENSORS[:-2]),
        IncompleteModel,
        "bytes",
        "字节",
    ),
    "a folder's shard is missing": (single_shard, IncompleteModel, SECOND, "缺少 1 个"),
    "a folder's config is not JSON": (
        folder_of(config=b"{", weights=SAFETENSORS),
        DamagedModel,
        "config.json",
        "config",
    ),
    "a loader for another format": (
        folder_of(config=CONFIG, weights=SAFETENSORS),
        Unsupported,
        "cannot load",
        "无法加载",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_model_is_refused_with_its_cause(
    smollm2: Path, tmp_path: Path, make_app: Callable[..., App], kind: str
) -> None:
    make, error, english, chinese = BROKEN[kind]
    app = make_app("--n_ctx", "512")
    name = make(tmp_path / "models", smollm2.read_bytes())
    with pytest.raises(error) as refused:
        app.loading.load(
            app.planner.plan(LoadRequest(app.catalog.find(name), "llama.cpp" if error is Unsupported else ""))
        )
    messages = {language: refused.value.say(language).partition("\n")[0] for language in ("en", "zh")}
    assert english in messages["en"] and chinese in messages["zh"], messages
    assert messages["en"] != messages["zh"]
    assert app.models.status.state in ("empty", "failed")


def test_a_load_that_needs_too_much_memory_names_remedies_and_the_next_load_works(
    smollm2: Path, tmp_path: Path, make_app: Callable[..., App]
) -> None:
    (tmp_path / "models" / SMOLLM2).symlink_to(smollm2)
    app = make_app("--n_ctx", "512")
    record = app.record(SMOLLM2)
    with pytest.raises(LoadFailed) as refused:
        app.loading.load(app.planner.plan(LoadRequest(record, form={"n_ctx": 16_000_000})))
    assert "not enough memory. Shorten the context" in refused.value.say("en")
    assert "内存不足。请缩短上下文" in refused.value.say("zh")
    assert app.loading.load(app.planner.plan(LoadRequest(record))).info.context_length == 512


def test_a_folder_named_like_a_gguf_file_is_not_a_model(tmp_path: Path, make_app: Callable[..., App]) -> None:
    (tmp_path / "models" / "x.gguf").mkdir()
    assert make_app().catalog.models() == []
