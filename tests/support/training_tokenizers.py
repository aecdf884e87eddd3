"""Tokenizers of three kinds, and what of a sample they train: run in a process of its own, which imports them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from modules.engines.training.samples import Sample
from modules.engines.training.tokens import OffsetTokenizer, tokenize_whole
from tests.support.hf_vocabularies import small_tokenizer

KINDS = ("SmolLM2", "bytes", "SentencePiece")
_MARKS = re.compile(r"<[^<>\n]{1,30}>|\[/?[A-Z_]{3,}\]")
"""The marks of turns in rendered conversations, which are special tokens of the models that have such templates."""
_TEXT = "Be brief. What is 1 + 1? And then? Two three four: user assistant system today count the letters of it.\n"


def learned(folder: Path, samples: Mapping[str, Sample]) -> dict[tuple[str, str], list[tuple[str, str, int]]]:
    """Return for each kind of tokenizer and sample the stretches of trained tokens, and the number of BOS tokens.

    A stretch is given as the text that its tokens stand for by their spans, and as what they decode to.
    """
    results: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
    marks = sorted({mark for sample in samples.values() for mark in _MARKS.findall(sample.text)})
    for kind in KINDS:
        tokenizer = _tokenizer(kind, folder)
        tokenizer.add_special_tokens({"additional_special_tokens": marks})
        for name, sample in samples.items():
            results[kind, name] = _stretches(sample, tokenizer)
    return results


def _stretches(sample: Sample, tokenizer: Any) -> list[tuple[str, str, int]]:
    row, spans = tokenize_whole(sample, OffsetTokenizer(tokenizer))
    begins = row.tokens.count(tokenizer.convert_tokens_to_ids("<bos_token>")) if "<bos_token>" in sample.text else 0
    stretches = []
    tokens = zip(row.tokens, row.trained, spans, strict=True)
    for trained, group in groupby(tokens, key=lambda token: token[1]):
        ids, _, covered = zip(*group, strict=True)
        if trained:
            text = sample.text[covered[0][0] : covered[-1][1]]
            decoded = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            stretches.append((text, decoded, begins))
    return stretches


def _tokenizer(kind: str, folder: Path) -> Any:
    import transformers

    if kind == "SmolLM2":
        return transformers.AutoTokenizer.from_pretrained(str(folder))
    return small_tokenizer() if kind == "bytes" else sentence_pieces([_TEXT] * 5)


def sentence_pieces(texts: Sequence[str]) -> Any:
    """Train a tokenizer as Llama 2 has one: pieces with ▁ for spaces, bytes for unknown characters, BOS before."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    begin = "<bos_token>"
    spaces = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = spaces
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400))
    model = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", begin, "</s>", *(f"<0x{value:02X}>" for value in range(256)), *model["vocab"]]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token="</s>", unk_token="<unk>")
