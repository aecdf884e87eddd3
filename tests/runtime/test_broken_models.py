"""Loads of broken models: the cause is named in both languages, and the next load works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.core.errors import DamagedModel, IncompleteModel, LoadFailed, Unsupported, UnsupportedModel, WebUIError
from modules.planning.load_request import LoadRequest
from tests.support.gguf_files import MODEL, TENSORS, As, Raw, Tensor, gguf

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
Made = Callable[[Path, bytes], str]


def file(content: Callable[[bytes], bytes], name: str = "x.gguf") -> Made:
    """Make a file from the bytes of the real model."""

    def make(folder: Path, real: bytes) -> str:
        (folder / name).write_bytes(content(real))
        return name

    return make


def spoilt(before: bytes, after: bytes) -> Made:
    """Make the real model with one word of its header replaced."""

    def spoil(real: bytes) -> bytes:
        assert before in real and len(before) == len(after)
        return real.replace(before, after, 1)

    return file(spoil)


def small(**changes: object) -> Made:
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return file(lambda _: gguf({**MODEL, **named}))


def folder_of(**files: object) -> Made:
    """Make a folder of weights: "config" and "index" are JSON, "weights" are the bytes of model.safetensors."""
    names = {"config": "config.json", "index": "model.safetensors.index.json", "weights": "model.safetensors"}

    def make(folder: Path, _real: bytes) -> str:
        (folder / "x").mkdir()
        for kind, content in files.items():
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            (folder / "x" / names[kind]).write_bytes(raw)
        return "x"

    return make


def part_of_a_set(folder: Path, real: bytes) -> str:
    (folder / "x-00001-of-00003.gguf").write_bytes(real)
    return "x-00001-of-00003.gguf"


def shard_of_a_set(folder: Path, _real: bytes) -> str:
    folder_of(config=CONFIG, index={"weight_map": {"a": "model-00001-of-00002.safetensors", "b": SECOND}})(folder, b"")
    (folder / "x" / "model-00001-of-00002.safetensors").write_bytes(SAFETENSORS)
    return "x"


SECOND = "model-00002-of-00002.safetensors"
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
SAFETENSORS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(4)

BROKEN: dict[str, tuple[Made, type[WebUIError], str, str]] = {
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
    "a pointer of git": (
        file(lambda real: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        IncompleteModel,
        "git-lfs pointer",
        "git-lfs 指针",
    ),
    "a future version": (file(lambda real: gguf(version=9)), UnsupportedModel, "version 9", "9"),
    "a part without the others": (part_of_a_set, IncompleteModel, "2 of 3 parts are missing", "缺少 2 个"),
    "more tensors than there are": (file(lambda real: gguf(count=99)), DamagedModel, "and 99 tensors", "99 个张量"),
    "an endless text": (
        file(lambda real: gguf({**MODEL, "general.name": As(8, Raw((1 << 60).to_bytes(8, "little")))})),
        DamagedModel,
        "",
        "",
    ),
    "a tensor beyond the file": (
        file(lambda real: gguf(tensors=[*TENSORS, Tensor("far", (64,), 0, offset=1 << 40)])),
        IncompleteModel,
        "truncated",
        "截断",
    ),
    "an architecture nobody knows": (
        small(general__architecture="llama99"),
        LoadFailed,
        "does not support its architecture (llama99)",
        "不支持其架构（llama99）",
    ),
    "a tokenizer nobody knows": (
        spoilt(b"\x06\0\0\0\0\0\0\0smollm", b"\x06\0\0\0\0\0\0\0smallm"),
        LoadFailed,
        "does not support its tokenizer (smallm)",
        "不支持其词符化器（smallm）",
    ),
    "no tokenizer": (
        spoilt(b"tokenizer.ggml.model", b"tokenizer.ggml.modex"),
        LoadFailed,
        "tokenizer is missing",
        "缺少词符化器",
    ),
    "a layer is missing": (
        spoilt(b"blk.3.attn_q.weight", b"blk.3.attn_x.weight"),
        LoadFailed,
        "lacks something that its architecture needs (blk.3.attn_q.weight)",
        "缺少该架构所需的内容（blk.3.attn_q.weight）",
    ),
    "a number is missing": (
        small(),
        LoadFailed,
        "needs (llama.attention.layer_norm_rms_epsilon)",
        "（llama.attention.layer_norm_rms_epsilon）",
    ),
    "shapes that do not match": (
        spoilt(b"llama.feed_forward_length", b"llama.feed_forward_lengtx"),
        LoadFailed,
        "does not match its weights (blk.0.ffn_gate.weight)",
        "与权重（blk.0.ffn_gate.weight）不符",
    ),
    "weights of a folder cut off": (
        folder_of(config=CONFIG, weights=SAFETENSORS[:-2]),
        IncompleteModel,
        "bytes",
        "字节",
    ),
    "a folder's shard is missing": (shard_of_a_set, IncompleteModel, SECOND, "缺少 1 个"),
    "a folder's config is no JSON": (
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
    said = {language: refused.value.say(language).partition("\n")[0] for language in ("en", "zh")}
    assert english in said["en"] and chinese in said["zh"], said
    assert said["en"] != said["zh"]
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
