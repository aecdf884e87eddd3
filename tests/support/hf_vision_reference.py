"""Answers of plain `generate` to prompts with pictures, in a process of its own."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.forked import forked

Asked = tuple[str, Sequence[bytes]]
"""A text with the model's own words in place of each picture, and the files of these."""


def vision_answers(
    folders: Mapping[str, Path], asked: Mapping[str, Sequence[Asked]], tokens: int
) -> dict[str, list[dict[str, Any]]]:
    """Return by the kind of model, for each prompt, its number of tokens and what was chosen.

    That is of so many greedy tokens the id and the log-probability.
    """
    return forked(_all_answers, folders, asked, tokens)


def _all_answers(
    folders: Mapping[str, Path], asked: Mapping[str, Sequence[Asked]], tokens: int
) -> dict[str, list[dict[str, Any]]]:
    return {kind: _answers(folders[kind], kind, prompts, tokens) for kind, prompts in asked.items()}


def _answers(folder: Path, kind: str, asked: Sequence[Asked], tokens: int) -> list[dict[str, Any]]:
    import torch
    import transformers
    from PIL import Image

    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()
    answers = []
    for text, files in asked:
        pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
        inputs = _inputs(transformers, folder, kind, text, pictures)
        out = model.generate(
            **inputs,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        count = inputs["input_ids"].shape[1]
        chosen = out.sequences[0, count:].tolist()
        chances = [torch.log_softmax(logits[0].double(), -1) for logits in out.logits]
        logprobs = [float(row[token]) for row, token in zip(chances, chosen, strict=True)]
        answers.append({"prompt_tokens": count, "tokens": chosen, "logprobs": logprobs})
    return answers


def _inputs(transformers: Any, folder: Path, kind: str, text: str, pictures: Sequence[Any]) -> dict[str, Any]:
    """Return the model's input, by a processor that transformers makes without torchvision, or by hand."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if not pictures:
        return dict(tokenizer(text, return_tensors="pt"))
    if kind == "qwen2vl":
        return _qwen2vl(transformers, folder, tokenizer, text, pictures)
    if kind == "smolvlm":  # whose pictures are those of Idefics 3
        images = transformers.AutoImageProcessor.from_pretrained(folder)
        processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=4)
    else:
        processor = transformers.AutoProcessor.from_pretrained(folder)
    return dict(processor(images=list(pictures), text=text, return_tensors="pt"))


def _qwen2vl(transformers: Any, folder: Path, tokenizer: Any, text: str, pictures: Sequence[Any]) -> dict[str, Any]:
    pad = "<|image_pad|>"
    images = transformers.AutoImageProcessor.from_pretrained(folder)(list(pictures), return_tensors="pt")
    first, *rest = text.split(pad)
    counts = (images["image_grid_thw"].prod(-1) // 4).tolist()
    whole = first + "".join(pad * count + after for count, after in zip(counts, rest, strict=True))
    inputs = dict(tokenizer(whole, return_tensors="pt"))
    kinds = (inputs["input_ids"] == tokenizer.convert_tokens_to_ids(pad)).int()
    return {**inputs, **images, "mm_token_type_ids": kinds}
