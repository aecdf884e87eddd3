"""The LoRAs in a folder, and their problems."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.core.lora_errors import LoraNotFound
from modules.lora.adapter_files import Pair
from modules.lora.catalog import LoraCatalog, LoraRecord
from tests.support.checkpoint_files import put, tensors
from tests.support.gguf_files import F64, U32, As, Tensor, gguf
from tests.support.lora_files import ADAPTER, CONFIG, LAYER, PAIR, SHAPES, adapter, peft

Q = Pair("model.layers.0.self_attn.q_proj", LAYER + "q_proj.lora_A.weight", LAYER + "q_proj.lora_B.weight", 4, 64, 64)


UNEQUAL = (Tensor("blk.0.attn_q.weight.lora_a", (64, 4)), Tensor("blk.0.attn_q.weight.lora_b", (4, 64, 3)))


def pair(*more_dimensions: int, kind: int = 0) -> tuple[Tensor, Tensor]:
    first, second = (Tensor(f"blk.0.attn_q.weight.lora_{half}", (32, 32, *more_dimensions), kind) for half in "ab")
    return first, second


def with_alpha(path: Path, value: As) -> Path:
    """Make an adapter with which llama.cpp would abort the process."""
    return put(path, gguf(ADAPTER | {"adapter.lora.alpha": value}, PAIR))


def activated_lora(path: Path) -> Path:
    return put(path, gguf(ADAPTER | {"adapter.alora.invocation_tokens": [5, 6]}, PAIR))


def only_record(folder: Path) -> LoraRecord:
    (record,) = LoraCatalog(folder).all()
    return record


def problem_text(record: LoraRecord) -> str:
    """Return the English message of the problem, after checking that there is a Chinese one."""
    assert record.problem is not None
    assert any("一" <= letter <= "鿿" for letter in record.problem.say("zh"))
    return record.problem.say("en")


def test_a_peft_folder_is_described(tmp_path: Path) -> None:
    folder = peft(tmp_path / "mine")
    record = only_record(tmp_path)
    assert (record.name, record.path, record.kind, record.problem, record.state) == ("mine", folder, "peft", None, "")
    assert (record.ranks, record.alpha, record.targets) == ((4,), 8.0, ("q_proj", "v_proj"))
    assert (record.base, record.stored, record.others) == ("user/tiny", "BF16", ())
    assert record.size == (folder / "adapter_model.safetensors").stat().st_size
    assert record.pairs[0] == Q


def test_a_gguf_adapter_is_described(tmp_path: Path) -> None:
    path = adapter(tmp_path / "mine.gguf")
    record = only_record(tmp_path)
    assert (record.name, record.path, record.kind, record.problem) == ("mine.gguf", path, "gguf", None)
    assert (record.ranks, record.alpha, record.targets) == ((4,), 8.0, ("attn_q",))
    assert (record.base, record.architecture, record.stored) == ("Tiny", "llama", "F32")
    assert [(pair.inputs, pair.outputs) for pair in record.pairs] == [(64, 64)]


def test_all_ranks_are_listed(tmp_path: Path) -> None:
    shapes = SHAPES | {LAYER + "v_proj.lora_A.weight": (2, 64), LAYER + "v_proj.lora_B.weight": (32, 2)}
    peft(tmp_path / "a", shapes, rank_pattern={r"layers\.\d+\.self_attn\.v_proj": 2})
    assert only_record(tmp_path).ranks == (2, 4)
    assert only_record(tmp_path).problem is None


def test_loras_are_listed_in_natural_order_with_nested_and_chinese_names(tmp_path: Path) -> None:
    for name in ("b10", "b9", "组/猫娘", "run/checkpoint-2"):
        peft(tmp_path / name)
    peft(tmp_path / "run")
    adapter(tmp_path / "组" / "c.gguf")
    names = [record.name for record in LoraCatalog(tmp_path).all()]
    assert names == ["b9", "b10", "run", "run/checkpoint-2", "组/c.gguf", "组/猫娘"]


def test_links_are_followed_without_endless_loops(tmp_path: Path) -> None:
    peft(tmp_path / "elsewhere" / "real")
    loras = tmp_path / "loras"
    loras.mkdir()
    (loras / "linked").symlink_to(tmp_path / "elsewhere" / "real")
    (loras / "loop").symlink_to(loras)
    (loras / "broken").symlink_to(tmp_path / "gone")
    assert [record.name for record in LoraCatalog(loras).all()] == ["linked"]


def test_other_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "notes.txt", "hello")
    put(tmp_path / "other" / "model.safetensors", tensors({"w": (2, 2)}))
    peft(tmp_path / ".hidden")
    assert LoraCatalog(tmp_path).all() == []
    assert LoraCatalog(tmp_path / "missing").all() == []


def without_config(folder: Path) -> None:
    (peft(folder / "a") / "adapter_config.json").unlink()


def without_weights(folder: Path) -> None:
    (peft(folder / "a") / "adapter_model.safetensors").unlink()


def pickled(folder: Path) -> None:
    without_weights(folder)
    put(folder / "a" / "adapter_model.bin", b"PK\x03\x04")


def truncated(folder: Path) -> None:
    weights = peft(folder / "a") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def invalid_json(folder: Path) -> None:
    put(peft(folder / "a") / "adapter_config.json", '{"peft_type": "LORA",')


def unpaired_tensor(folder: Path) -> None:
    peft(folder / "a", {name: shape for name, shape in SHAPES.items() if "v_proj.lora_B" not in name})


def without_folder(folder: Path) -> None:
    put(folder / "adapter_config.json", CONFIG)


def with_type(folder: Path, dtype: str) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b'"BF16"', f'"{dtype}" '.encode()))


DAMAGED: list[tuple[Callable[[Path], object], str, str]] = [
    (without_config, "incomplete", "a: adapter_config.json is missing."),
    (without_weights, "incomplete", "a: adapter_model.safetensors is missing."),
    (pickled, "unsupported", "adapter_model.bin: a pickle can run code"),
    (truncated, "incomplete", "adapter_model.safetensors: the file is truncated"),
    (invalid_json, "damaged", "adapter_config.json: the JSON is invalid or breaks off at line 1"),
    (unpaired_tensor, "damaged", "self_attn.v_proj' is missing."),
    (without_folder, "unsupported", "adapter_config.json: a LoRA needs a folder of its own."),
    (lambda top: peft(top / "a", {"w": (2, 2)}), "damaged", "there is no LoRA in it"),
    (lambda top: peft(top / "a", peft_type="IA3"), "unsupported", "the adapter is of type 'IA3'; only LORA"),
    (lambda top: peft(top / "a", peft_type=None), "unsupported", "the type of the adapter (peft_type) is missing"),
    (lambda top: peft(top / "a", r="many"), "unsupported", "r = 'many' or lora_alpha = 8 is not a valid number"),
    (lambda top: peft(top / "a", lora_alpha=10**400), "unsupported", "is not a valid number"),
    (lambda top: peft(top / "a", r=16), "damaged", "the rank is 16 in adapter_config.json, but 4 in"),
    (
        lambda top: peft(top / "a", SHAPES | {LAYER + "q_proj.lora_B.weight": (64, 2)}),
        "damaged",
        "rank 4 in A, 2 in B",
    ),
    (lambda top: peft(top / "a", SHAPES | {LAYER + "q_proj.lora_A.weight": (256,)}), "damaged", "dimensions [256]"),
    (lambda top: with_type(peft(top / "a"), "F64"), "unsupported", "is of type 'F64'; only F32, F16 and BF16"),
    (lambda top: adapter(top / "a.gguf", general_type="model"), "unsupported", "this is a model, not a LoRA."),
    (lambda top: put(top / "a.gguf", gguf()), "unsupported", "this is a model, not a LoRA."),
    (lambda top: adapter(top / "a.gguf", adapter_type="other"), "unsupported", "is not a LoRA: its type is 'other'"),
    (lambda top: adapter(top / "a.gguf", (Tensor("x.lora_a", (4, 4)),)), "damaged", "the tensor B of 'x' is missing."),
    (lambda top: with_alpha(top / "a.gguf", As(U32, 8)), "damaged", "'adapter.lora.alpha' is not of the type float32"),
    (
        lambda top: with_alpha(top / "a.gguf", As(F64, 8.0)),
        "damaged",
        "'adapter.lora.alpha' is not of the type float32",
    ),
    (
        lambda top: adapter(top / "a.gguf", pair(kind=24)),
        "unsupported",
        "lora_a' is of type I8, which llama.cpp does not support",
    ),
    (
        lambda top: adapter(top / "a.gguf", pair(kind=9)),
        "unsupported",
        "is of type Q8_1, which llama.cpp does not support",
    ),
    (
        lambda top: adapter(top / "a.gguf", pair(kind=99)),
        "unsupported",
        "of type Q8_2_X4 (99), which only ik_llama.cpp knows",
    ),
    (lambda top: adapter(top / "a.gguf", pair(2, 1, 3)), "damaged", "dimensions [32, 32, 2, 1, 3]"),
    (lambda top: adapter(top / "a.gguf", pair(1, 3)), "damaged", "invalid dimensions [32, 32, 1, 3]"),
    (lambda top: adapter(top / "a.gguf", UNEQUAL), "damaged", "invalid dimensions [4, 64, 3]"),
    (lambda top: activated_lora(top / "a.gguf"), "unsupported", "this is an activated LoRA"),
    (lambda top: put(top / "a.gguf", b"<html>"), "damaged", "this is not a GGUF file but a web page"),
]


def test_a_damaged_lora_has_a_state_and_a_reason(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (make, state, words) in enumerate(DAMAGED):
        with subtests.test(state=state, words=words):
            folder = tmp_path / str(number)
            folder.mkdir()
            make(folder)
            record = only_record(folder)
            assert words in problem_text(record)
            assert record.state == state


def test_a_lora_is_found_by_its_name_or_an_unambiguous_part(tmp_path: Path) -> None:
    peft(tmp_path / "user" / "cat")
    adapter(tmp_path / "dog.gguf")
    loras = LoraCatalog(tmp_path)
    assert loras.find("user/cat").name == loras.find("cat").name == "user/cat"
    assert loras.find("dog").name == "dog.gguf"
    with pytest.raises(LoraNotFound, match="no LoRA 'cats'"):
        loras.find("cats")


def test_listing_again_reads_only_changed_files(tmp_path: Path) -> None:
    modules = [f"{LAYER.replace('.0.', f'.{n}.')}q_proj.lora_" for n in range(100)]
    shapes = {f"{module}{half}.weight": shape for module in modules for half, shape in (("A", (4, 8)), ("B", (8, 4)))}
    for number in range(40):
        peft(tmp_path / f"lora {number}", shapes)
    loras = LoraCatalog(tmp_path)
    start = time.perf_counter()
    first = loras.all()
    first_end = time.perf_counter()
    assert loras.all() == first
    assert time.perf_counter() - first_end < (first_end - start) / 4
    peft(tmp_path / "lora 7", r=16)
    assert [record.name for record in loras.all() if record.problem] == ["lora 7"]


def test_a_pattern_that_is_no_regular_expression_matches_nothing(tmp_path: Path) -> None:
    peft(tmp_path / "a", rank_pattern={"(": 2, "q_proj": 4})
    assert (only_record(tmp_path).ranks, only_record(tmp_path).problem) == ((4,), None)


def test_a_pattern_that_could_be_matched_for_ever_is_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    patterns = {
        "(x+x+)+y": True,
        "(x|x)?(x|x)?(x|x)?y": True,
        r"(?=x).*y": True,
        ".*x.*x.*x.*y": True,
        "(x|x)" * 30: True,
        "x?" * 30 + "y": True,
        f"({'|' * 20})" * 8 + "y": True,
        r"model\.layers\.\d+\.mlp\.experts\.\d+\.(up|gate)_proj": False,
        r"layers\.(?:1|2)\..*_proj": False,
        r"layers\.(20|21|22|23|24|25|26|27)\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj": False,
    }
    for number, (pattern, is_refused) in enumerate(patterns.items()):
        with subtests.test(pattern=pattern):
            folder = tmp_path / str(number)
            peft(folder / "a", alpha_pattern={pattern: 2})
            problem = only_record(folder).problem
            assert (problem is not None) == is_refused
            assert problem is None or "could take for ever" in problem.say("en")


def test_what_is_no_list_or_no_number_does_not_hide_the_other_loras(tmp_path: Path) -> None:
    peft(tmp_path / "a", target_modules=True)
    peft(tmp_path / "b", alpha_pattern={"q_proj": 10**400})
    assert [(record.name, record.problem) for record in LoraCatalog(tmp_path).all()] == [("a", None), ("b", None)]
