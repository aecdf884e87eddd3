"""Loaders read a `tokenizer.model` without tokenizer.json exactly as sentencepiece does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece

from modules.loaders.registry import LOADERS
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import TRANSFORMERS, load
from tests.support.answers import ask
from tests.support.gguf_files import I32, MODEL, As, Tensor, array, gguf
from tests.support.hf_tiny import tiny_models

ARRAY = 9
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
TEXT = "The lighthouse keeper wrote a letter to the harbour, and the harbour wrote a letter to the lighthouse keeper."
LINES = ["a letter to the keeper", "Wrote? A letter!", "灯塔 and 猫", "two\nlines  and gaps"]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
LAYER = {"attn_q": (32, 32), "attn_k": (32, 16), "attn_v": (32, 16), "attn_output": (32, 32)}
LAYER |= {"ffn_gate": (32, 64), "ffn_up": (32, 64), "ffn_down": (64, 32)}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the three tokenizer files that the original web UI requires."""
    folder = tmp_path_factory.mktemp("trained")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 20),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=340,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": True, **SPECIAL}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(SPECIAL))
    return folder


@pytest.fixture(scope="module")
def pieces(tokenizer_folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_folder / "tokenizer.model"))


def gguf_with_vocabulary(pieces: sentencepiece.SentencePieceProcessor) -> bytes:
    """Return a GGUF file with the vocabulary of `pieces` and weights of 0, which llama.cpp can load."""
    numbers = range(pieces.get_piece_size())

    def kind(number: int) -> int:
        if pieces.is_unknown(number):
            return UNKNOWN
        return CONTROL if pieces.is_control(number) else BYTE if pieces.is_byte(number) else NORMAL

    metadata = MODEL | {
        "llama.embedding_length": 32,
        "llama.block_count": 1,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [pieces.id_to_piece(number) for number in numbers],
        "tokenizer.ggml.scores": [pieces.get_score(number) for number in numbers],
        "tokenizer.ggml.token_type": As(ARRAY, array(I32, [kind(number) for number in numbers])),
    }
    tensors = [Tensor("token_embd.weight", (32, len(numbers))), Tensor("output_norm.weight", (32,))]
    tensors += [Tensor(f"blk.0.{name}.weight", shape) for name, shape in LAYER.items()]
    tensors += [Tensor(f"blk.0.{name}.weight", (32,)) for name in ("attn_norm", "ffn_norm")]
    return gguf(metadata, tensors)


def assert_tokenization(worker: WorkerProcess, pieces: sentencepiece.SentencePieceProcessor) -> None:
    for line in (TEXT, *LINES):
        expected = [pieces.bos_id(), *pieces.encode(line)]
        assert ask(worker, "encode", text=line) == expected, line
        assert ask(worker, "decode", tokens=expected[1:]).lstrip(" ") == line.lstrip(" ")


def test_transformers_reads_tokenizer_model(
    reloadable: WorkerProcess,
    tokenizer_folder: Path,
    pieces: sentencepiece.SentencePieceProcessor,
    tmp_path: Path,
) -> None:
    folder = tiny_models(tmp_path, tokenizer_folder, ["llama"])["llama"]
    (folder / "special_tokens_map.json").write_bytes((tokenizer_folder / "special_tokens_map.json").read_bytes())
    assert not (folder / "tokenizer.json").exists()
    assert load(reloadable, folder, TRANSFORMERS).special_tokens["bos_token"] == "<s>"
    assert_tokenization(reloadable, pieces)


def test_llamacpp_hf_reads_tokenizer_model_next_to_the_model_and_from_the_shared_folder(
    backend: None,
    worker: WorkerProcess,
    tokenizer_folder: Path,
    pieces: sentencepiece.SentencePieceProcessor,
    tmp_path: Path,
    subtests: pytest.Subtests,
) -> None:
    for tokenizer in ("own/", "shared/oobabooga_llama-tokenizer"):
        with subtests.test(tokenizer):
            (tmp_path / tokenizer).mkdir(parents=True)
            model = write_with_tokenizer(
                tmp_path / tokenizer.partition("/")[0], tmp_path / tokenizer, tokenizer_folder, pieces
            )
            info = load(worker, model, LOADERS["llamacpp_HF"], n_ctx=256, threads=1)
            assert (info.notes, info.special_tokens["eos_token"]) == ((), "<unk>")
            assert_tokenization(worker, pieces)


def write_with_tokenizer(
    models: Path, folder: Path, tokenizer_folder: Path, pieces: sentencepiece.SentencePieceProcessor
) -> Path:
    """Write a model to `models` and its tokenizer to `folder`; return the model's path."""
    for file in tokenizer_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    # A different EOS token shows that this tokenizer is used instead of the one in the GGUF file.
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<unk>"}))
    (folder / "special_tokens_map.json").write_text(json.dumps(SPECIAL | {"eos_token": "<unk>"}))
    (models / "model.gguf").write_bytes(gguf_with_vocabulary(pieces))
    return models / "model.gguf"
