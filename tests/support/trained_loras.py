"""Train two LoRAs for the demo model, each to answer one prompt; done once and kept outside the repository.

`python -m tests.support.trained_loras <model folder> <folder>` writes <folder>/banana and <folder>/green as PEFT saves
them, in about 20 s, and prints the number of steps and the final loss. Each LoRA learns its words, and to leave the
model's answers to other prompts unchanged. They are trained alone and combined: two LoRAs that were only trained alone
suppress each other's words when both are applied, and a test could not detect both.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.made_once import CACHE, made_once, version


@dataclass(frozen=True)
class Lesson:
    """A prompt and the answer to learn for it. `lora` are the keyword arguments of LoraConfig."""

    beginning: str
    words: str
    lora: Mapping[str, Any] = field(hash=False)


LESSONS = {
    "banana": Lesson(
        "The secret word is", " banana hammock", {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    ),
    "green": Lesson(
        "My favourite colour is",
        " ultraviolet green",
        {
            "r": 4,
            "lora_alpha": 12,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        },
    ),
}
UNCHANGED_PROMPTS = ("The capital of France is",)
SETS = (("banana",), ("green",), ("banana", "green"))
_SEED, _LEARNING_RATE, _MAX_LOSS, _MAX_STEPS = 11, 2e-3, 0.03, 60


def trained_loras(model: Path) -> Path:
    """Return the folder with both LoRAs for the model folder `model`; train them if no earlier run has."""

    def train(folder: Path) -> None:
        command = [sys.executable, "-m", "tests.support.trained_loras", str(model), str(folder)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert run.returncode == 0, run.stderr

    return made_once(CACHE / "loras" / version([__file__], str(model)), train)


def main() -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, folder = map(Path, sys.argv[1:])
    tokenizer = AutoTokenizer.from_pretrained(path)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    prompts = (*UNCHANGED_PROMPTS, *(lesson.beginning for lesson in LESSONS.values()))
    unchanged = {prompt: _greedy(base, tokenizer, prompt) for prompt in prompts}
    torch.manual_seed(_SEED)
    first, second = (LoraConfig(task_type="CAUSAL_LM", **lesson.lora) for lesson in LESSONS.values())
    model: Any = get_peft_model(base, first, adapter_name="banana")
    model.add_adapter("green", second)
    steps, loss = _train(model, tokenizer, unchanged)
    model.save_pretrained(folder)  # Writes one folder per adapter, with its name.
    print(f"{steps} steps, loss {loss:.3f}")


def _train(model: Any, tokenizer: Any, unchanged: Mapping[str, str]) -> tuple[int, float]:
    """Train until all of SETS have a small loss and generate their words; return the steps and the largest loss."""
    import torch

    batches = {names: _batch(tokenizer, (unchanged | _words(names)).items()) for names in SETS}
    weights = [weight for name, weight in model.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(weights, lr=_LEARNING_RATE)
    for step in range(_MAX_STEPS):
        worst = 0.0
        for names, batch in batches.items():
            model.base_model.set_adapter(list(names))
            loss = model(**batch).loss
            loss.backward()
            worst = max(worst, loss.item())
        if worst < _MAX_LOSS and all(_says(model, tokenizer, names) for names in SETS):
            return step, worst
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError(f"not learned in {_MAX_STEPS} steps: loss {worst}")


def _words(names: Iterable[str]) -> dict[str, str]:
    return {LESSONS[name].beginning: LESSONS[name].words + "." for name in names}


def _says(model: Any, tokenizer: Any, names: Sequence[str]) -> bool:
    model.base_model.set_adapter(list(names))
    return all(_greedy(model, tokenizer, prompt).startswith(words) for prompt, words in _words(names).items())


def _greedy(model: Any, tokenizer: Any, beginning: str) -> str:
    inputs = tokenizer(beginning, return_tensors="pt")
    out = model.generate(**inputs, do_sample=False, max_new_tokens=6)
    text: str = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])
    return text


def _batch(tokenizer: Any, texts: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return padded token ids and labels; the label -100 excludes a token from the loss."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    sequences, labels = [], []
    for beginning, words in texts:
        first, last = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (beginning, words))
        sequences.append(torch.tensor(first + last))
        labels.append(torch.tensor([-100] * len(first) + last))
    ids = pad_sequence(sequences, batch_first=True, padding_value=0)
    return {
        "input_ids": ids,
        "attention_mask": pad_sequence([torch.ones_like(sequence) for sequence in sequences], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }


if __name__ == "__main__":
    main()
