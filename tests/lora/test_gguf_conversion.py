"""PEFT LoRAs are converted to GGUF adapters: compared with PEFT on the demo model, and case by case on tiny models."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modules.core.errors import ModelProblem
from modules.core.lora_errors import LoraInexpressible, LoraNotWritten
from modules.core.paths import ROOT
from modules.formats.gguf_header import GgufHeader, read_header, read_tensors
from modules.lora.catalog import CONVERTED as FOLDER
from modules.lora.catalog import LoraCatalog, LoraRecord
from modules.lora.gguf_conversion import converted, interleaved
from tests.support.checkpoint_files import put
from tests.support.gguf_files import ARRAY, MODEL, U32, As, array, gguf
from tests.support.hf_folder import bfloat16, write_safetensors
from tests.support.lora_files import CONFIG, LAYER, peft
from tests.support.peft_reference import peft_logits

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOKENS = [504, 3575, 282, 4649, 314, 7042, 30, 339, 5745, 338, 260, 1119, 314, 253, 1109, 282, 1743]
Logits = Mapping[str, NDArray[np.float32]]
Array = NDArray[Any]

# Mean absolute differences of logits. llama.cpp rounds activations to 8 bits before it multiplies them by a quantized
# weight: even without an adapter its logits differ from those in float32 by 0.26.
TOLERANCE, EFFECT = 0.45, 2.0


def run(script: str, request: dict[str, Any], path: Path) -> None:
    put(path, request)
    subprocess.run([sys.executable, "-m", f"tests.support.{script}", str(path)], cwd=ROOT, check=True, timeout=110)


def mean_difference(first: Array, second: Array) -> float:
    return float(np.abs(first - second).mean())


@pytest.fixture(scope="module")
def logits(smollm2: Path, smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Logits, Logits]:
    """Return the logits of PEFT in float32, and of llama.cpp with the demo model (Q4_1)."""
    top = tmp_path_factory.mktemp("adapters")
    mixed = {"r": 4, "lora_alpha": 6, "target_modules": PROJECTIONS, "strength": 0.1, "dtype": "bfloat16"}
    mixed |= {"use_rslora": True, "rank_pattern": {"q_proj": 6}, "alpha_pattern": {"k_proj": 16, "o_proj": -3}}
    adapters = {
        "heads": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "k_proj"], "strength": 0.6},
        "half": {"r": 4, "lora_alpha": 8, "target_modules": PROJECTIONS, "strength": 0.15, "dtype": "float16"},
        "mixed": mixed,
    }
    expected = peft_logits(smollm2_folder, top, adapters, TOKENS)
    files = {lora.name: str(converted(lora, read_header(smollm2))) for lora in LoraCatalog(top).all()}
    files["disordered"] = str(disordered(Path(files["heads"]), top / "disordered.gguf"))
    job = {"model": str(smollm2), "adapters": files, "tokens": TOKENS, "out": str(top / "llama.npz")}
    run("llama_lora_reference", {"jobs": [job]}, top / "llama.json")
    return expected, np.load(top / "llama.npz")


def disordered(good: Path, path: Path) -> Path:
    """Make the same adapter with the rows of B in the order of transformers."""
    content = bytearray(good.read_bytes())
    _, table = read_tensors(good)
    data = len(content) - sum(-(-tensor.size // 32) * 32 for tensor in table)
    for tensor in table:
        if tensor.name.endswith(("attn_q.weight.lora_b", "attn_k.weight.lora_b")):
            rows, heads = tensor.shape[1], 9 if "attn_q" in tensor.name else 3
            span = slice(data + tensor.offset, data + tensor.offset + tensor.size)
            array = np.frombuffer(bytes(content[span]), "<f4").reshape(heads, rows // heads // 2, 2, tensor.shape[0])
            content[span] = array.swapaxes(1, 2).tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["heads", "half", "mixed"])
def test_llama_cpp_computes_the_same_logits_as_peft(logits: tuple[Logits, Logits], name: str) -> None:
    peft, llama = logits
    assert mean_difference(llama[name], peft[name]) < TOLERANCE
    assert mean_difference(peft[name], peft["none"]) > EFFECT
    assert mean_difference(llama[name], llama["none"]) > EFFECT


def test_rows_in_the_wrong_order_change_the_logits(logits: tuple[Logits, Logits]) -> None:
    peft, llama = logits
    assert mean_difference(llama["disordered"], peft["heads"]) > EFFECT


def test_removing_the_adapter_restores_the_logits(logits: tuple[Logits, Logits]) -> None:
    _, llama = logits
    assert np.array_equal(llama["removed"], llama["none"])


def header(folder: Path, **changes: object) -> GgufHeader:
    """Return the header of a small model with 8 query and 4 key heads."""
    architecture = str(changes.pop("architecture", "llama"))
    metadata = {key.replace("llama.", f"{architecture}."): value for key, value in MODEL.items()}
    metadata |= {f"{architecture}.{key}": value for key, value in changes.items()}
    metadata["general.architecture"] = architecture
    return read_header(put(folder / "model.gguf", gguf(metadata)))


def numbered(*shape: int, dtype: str = "<f4") -> Array:
    """Return the numbers from 0 on in an array of that shape."""
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def peft_lora(folder: Path, arrays: Mapping[str, Array], **config: object) -> LoraRecord:
    put(folder / "cat" / "adapter_config.json", CONFIG | config)
    write_safetensors(folder / "cat" / "adapter_model.safetensors", dict(arrays))
    return LoraCatalog(folder).find("cat")


def pair(module: str, a: Array, b: Array) -> dict[str, Array]:
    return {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}


def read_arrays(path: Path) -> dict[str, Array]:
    """Return all tensors of a GGUF file, as [rows, columns]."""
    content, (_, table) = path.read_bytes(), read_tensors(path)
    data = len(content) - sum(-(-tensor.size // 32) * 32 for tensor in table)
    dtypes = {"F32": "<f4", "F16": "<f2"}
    return {
        tensor.name: np.frombuffer(
            content, dtypes[tensor.type], tensor.size // int(dtypes[tensor.type][-1]), data + tensor.offset
        ).reshape(tensor.shape[::-1])
        for tensor in table
    }


def test_values_of_every_type_are_converted_exactly(tmp_path: Path) -> None:
    a, b = numbered(4, 64) / 7, numbered(32, 4) / 3
    for dtype, narrow in (("F32", lambda x: x), ("F16", lambda x: x.astype("<f2")), ("BF16", bfloat16)):
        folder = tmp_path / dtype
        path = converted(peft_lora(folder, pair(LAYER + "v_proj", narrow(a), narrow(b))), header(tmp_path))
        tensors = read_arrays(path)
        widened = {"F32": lambda x: x, "F16": lambda x: x.astype("<f2"), "BF16": as_bfloat16}[dtype]
        assert np.array_equal(tensors["blk.0.attn_v.weight.lora_a"], widened(a))
        assert np.array_equal(tensors["blk.0.attn_v.weight.lora_b"], widened(b))
        assert tensors["blk.0.attn_v.weight.lora_a"].dtype == ("<f2" if dtype == "F16" else "<f4")


def as_bfloat16(array: Array) -> Array:
    return (bfloat16(array).astype("<u4") << 16).view("<f4")


def test_rows_of_each_head_are_interleaved() -> None:
    assert interleaved(bytes(range(8)), rows=8, heads=2) == bytes([0, 2, 1, 3, 4, 6, 5, 7])
    assert interleaved(bytes(range(12)), rows=6, heads=1) == bytes([0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11])


@pytest.mark.parametrize(("architecture", "changed"), [("llama", True), ("qwen2", False), ("gemma2", False)])
def test_only_some_architectures_have_interleaved_heads(tmp_path: Path, architecture: str, changed: bool) -> None:
    b = numbered(32, 4)
    lora = peft_lora(tmp_path, pair(LAYER + "k_proj", numbered(4, 64), b) | pair(LAYER + "v_proj", numbered(4, 64), b))
    tensors = read_arrays(converted(lora, header(tmp_path, architecture=architecture)))
    assert np.array_equal(tensors["blk.0.attn_v.weight.lora_b"], b)
    assert np.array_equal(tensors["blk.0.attn_k.weight.lora_b"], b) is not changed
    assert sorted(tensors["blk.0.attn_k.weight.lora_b"][:, 0]) == sorted(b[:, 0])


def test_the_alpha_of_a_single_module_is_multiplied_into_its_b(tmp_path: Path) -> None:
    parts = {
        name: pair(LAYER + name, numbered(4, 64, dtype="<f2"), numbered(32, 4, dtype="<f2"))
        for name in ("v_proj", "o_proj", "q_proj")
    }
    lora = peft_lora(tmp_path, parts["v_proj"] | parts["o_proj"] | parts["q_proj"], alpha_pattern={"o_proj": 2})
    path = converted(lora, header(tmp_path))
    assert read_header(path).alpha == 8.0
    tensors = read_arrays(path)
    assert np.array_equal(tensors["blk.0.attn_output.weight.lora_b"], numbered(32, 4) / 4)
    assert tensors["blk.0.attn_v.weight.lora_b"].dtype == "<f2"


def test_rslora_is_converted_to_the_alpha_with_the_same_scale(tmp_path: Path) -> None:
    lora = peft_lora(tmp_path, pair(LAYER + "v_proj", numbered(4, 64), numbered(32, 4)), use_rslora=True)
    assert read_header(converted(lora, header(tmp_path))).alpha == 16.0  # 8 * sqrt(4), to be divided by 4


INEXPRESSIBLE: list[tuple[dict[str, object], dict[str, Array], str]] = [
    ({"use_dora": True}, {}, "use_dora"),
    ({"init_lora_weights": "pissa"}, {}, "init_lora_weights"),
    ({"bias": "all"}, {}, "bias"),
    ({"modules_to_save": ["lm_head"]}, {}, "modules_to_save"),
    ({"fan_in_fan_out": True}, {}, "fan_in_fan_out"),
    ({}, {"base_model.model.lm_head.weight": numbered(8, 64)}, "base_model.model.lm_head.weight"),
    ({}, {LAYER + "v_proj.lora_magnitude_vector": numbered(32)}, "v_proj.lora_magnitude_vector"),
    ({}, pair("base_model.model.vision.layers.0.q_proj", numbered(4, 8), numbered(8, 4)), "vision.layers.0.q_proj"),
    ({"lora_alpha": 0}, {}, "its lora_alpha is 0"),
]


def test_a_lora_that_gguf_cannot_express_is_refused_by_name(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (config, extra, words) in enumerate(INEXPRESSIBLE):
        with subtests.test(words=words):
            folder = tmp_path / str(number)
            folder.mkdir()
            lora = peft_lora(folder, pair(LAYER + "v_proj", numbered(4, 64), numbered(32, 4)) | extra, **config)
            with pytest.raises(LoraInexpressible) as caught:
                converted(lora, header(folder))
            assert words in caught.value.say("en") and words.removeprefix("its ").split(" ")[0] in caught.value.say(
                "zh"
            )
            assert not (folder / "cat" / FOLDER).exists()


def test_an_embedding_and_an_unknown_architecture_are_refused(tmp_path: Path) -> None:
    prefix = "base_model.model.model.embed_tokens.lora_embedding_"
    lora = peft_lora(tmp_path, {f"{prefix}A": numbered(4, 100), f"{prefix}B": numbered(64, 4)})
    with pytest.raises(LoraInexpressible, match=r"cannot apply a LoRA to 'model\.embed_tokens'"):
        converted(lora, header(tmp_path))
    with pytest.raises(LoraInexpressible, match="architecture 'rwkv7' is not supported"):
        converted(lora, header(tmp_path, architecture="rwkv7"))


def test_a_number_of_heads_that_does_not_divide_the_rows_is_refused(tmp_path: Path) -> None:
    lora = peft_lora(tmp_path, pair(LAYER + "q_proj", numbered(4, 64), numbered(50, 4)))
    with pytest.raises(LoraInexpressible, match="the 50 outputs of"):
        converted(lora, header(tmp_path))


def test_a_lora_is_converted_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    parts = pair(LAYER + "q_proj", numbered(4, 64), numbered(64, 4))
    lora, model = peft_lora(tmp_path, parts), header(tmp_path)
    path = converted(lora, model)
    first = path.stat()
    assert path == tmp_path / "cat" / FOLDER / "llama-8-4.gguf"
    assert converted(lora, model) == path and path.stat().st_mtime_ns == first.st_mtime_ns
    os.utime(tmp_path / "cat" / "adapter_model.safetensors", ns=(1, 1))
    assert converted(lora, model) == path and path.stat().st_ino != first.st_ino
    assert converted(lora, header(tmp_path, **{"attention.head_count": 4})) != path


def test_a_truncated_or_foreign_conversion_is_replaced(tmp_path: Path) -> None:
    lora, model = peft_lora(tmp_path, pair(LAYER + "q_proj", numbered(4, 64), numbered(64, 4))), header(tmp_path)
    complete = converted(lora, model).read_bytes()
    for content in (complete[:-1], b"", b"nonsense"):
        converted(lora, model).write_bytes(content)
        assert converted(lora, model).read_bytes() == complete
    assert [path.name for path in (tmp_path / "cat" / FOLDER).iterdir()] == ["llama-8-4.gguf"]


def test_a_conversion_is_a_valid_adapter_and_is_not_listed(tmp_path: Path) -> None:
    lora = peft_lora(tmp_path / "loras", pair(LAYER + "q_proj", numbered(4, 64), numbered(64, 4)))
    path = converted(lora, header(tmp_path))
    assert [record.name for record in LoraCatalog(tmp_path / "loras").all()] == ["cat"]
    (record,) = LoraCatalog(path.parent).all()
    assert (record.problem, record.ranks, record.alpha, record.architecture) == (None, (4,), 8.0, "llama")
    assert record.base == "user/tiny"


def test_a_folder_that_is_not_writable_is_reported_with_the_system_error(tmp_path: Path) -> None:
    lora = peft_lora(tmp_path, pair(LAYER + "q_proj", numbered(4, 64), numbered(64, 4)))
    put(tmp_path / "cat" / FOLDER, "a file with the name of the folder")
    with pytest.raises(LoraNotWritten, match=r"\.converted"):
        converted(lora, header(tmp_path))


def test_a_damaged_lora_is_refused_with_its_own_problem(tmp_path: Path) -> None:
    lora = LoraCatalog(peft(tmp_path / "x" / "cat", r=16).parent).find("cat")
    with pytest.raises(ModelProblem, match="the rank is 16"):
        converted(lora, header(tmp_path))


def test_the_heads_of_each_block_are_counted_where_they_differ(tmp_path: Path) -> None:
    b = numbered(64, 4)
    modules = [LAYER.replace("layers.0", f"layers.{block}") + "q_proj" for block in (0, 1)]
    lora = peft_lora(tmp_path, {key: x for name in modules for key, x in pair(name, numbered(4, 64), b).items()})

    def rows(heads: object) -> list[bytes]:
        tensors = read_arrays(converted(lora, header(tmp_path, **{"attention.head_count": heads})))
        return [tensors[f"blk.{block}.attn_q.weight.lora_b"].tobytes() for block in (0, 1)]

    (eight, _), (four, _) = rows(8), rows(4)
    assert eight != four and rows(As(ARRAY, array(U32, [8, 4]))) == [eight, four]


def test_weights_that_become_shorter_during_the_conversion_are_refused(tmp_path: Path) -> None:
    lora = peft_lora(tmp_path, pair(LAYER + "q_proj", numbered(4, 64), numbered(64, 4)))
    weights = tmp_path / "cat" / "adapter_model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    with pytest.raises(ModelProblem, match="truncated"):
        converted(lora, header(tmp_path))
    assert not list((tmp_path / FOLDER).glob("*"))
