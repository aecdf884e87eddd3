"""Two LoRAs for the demo model, each trained to say one thing: made once, and kept outside the repository.

`python -m tests.support.trained_loras <model folder> <folder>` writes <folder>/banana and <folder>/green as PEFT saves
them, in about 20 s, and prints how many steps it took and the loss that was reached. Each learns its words, and after
other beginnings to leave the model as it is. They learn alone and together: two that know nothing of each other drown
each other out, and then a test could not hear both.
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
    """`lora` is what LoraConfig takes."""

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
OTHERS = ("The capital of France is",)
SETS = (("banana",), ("green",), ("banana", "green"))
_SEED, _RATE, _LOSS, _MOST_STEPS = 11, 2e-3, 0.03, 60


def trained_loras(model: Path) -> Path:
    """Return the folder with both, for the model in `model`; train them if no earlier run has."""

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
    own = {each: _greedy(base, tokenizer, each) for each in (*OTHERS, *(each.beginning for each in LESSONS.values()))}
    torch.manual_seed(_SEED)
    first, second = (LoraConfig(task_type="CAUSAL_LM", **each.lora) for each in LESSONS.values())
    model: Any = get_peft_model(base, first, adapter_name="banana")
    model.add_adapter("green", second)
    steps, loss = _learn(model, tokenizer, own)
    model.save_pretrained(folder)  # each into a folder of its name
    print(f"{steps} steps, loss {loss:.3f}")


def _learn(model: Any, tokenizer: Any, own: Mapping[str, str]) -> tuple[int, float]:
    """Until the worst loss of an adapter alone, and of both together, is small and the words are said."""
    import torch

    batches = {names: _batch(tokenizer, (own | _words(names)).items()) for names in SETS}
    weights = [each for name, each in model.named_parameters() if "lora_" in name]
    optimiser = torch.optim.AdamW(weights, lr=_RATE)
    for step in range(_MOST_STEPS):
        worst = 0.0
        for names, batch in batches.items():
            model.base_model.set_adapter(list(names))
            loss = model(**batch).loss
            loss.backward()
            worst = max(worst, loss.item())
        if worst < _LOSS and all(_says(model, tokenizer, names) for names in SETS):
            return step, worst
        optimiser.step()
        optimiser.zero_grad()
    raise AssertionError(f"not learnt in {_MOST_STEPS} steps: loss {worst}")


def _words(names: Iterable[str]) -> dict[str, str]:
    return {LESSONS[name].beginning: LESSONS[name].words + "." for name in names}


def _says(model: Any, tokenizer: Any, names: Sequence[str]) -> bool:
    model.base_model.set_adapter(list(names))
    return all(_greedy(model, tokenizer, each).startswith(words) for each, words in _words(names).items())


def _greedy(model: Any, tokenizer: Any, beginning: str) -> str:
    inputs = tokenizer(beginning, return_tensors="pt")
    out = model.generate(**inputs, do_sample=False, max_new_tokens=6)
    text: str = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])
    return text


def _batch(tokenizer: Any, texts: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """What to read and what to learn of it, -100 for nothing."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    read, learn = [], []
    for beginning, words in texts:
        first, last = (tokenizer(each, add_special_tokens=False)["input_ids"] for each in (beginning, words))
        read.append(torch.tensor(first + last))
        learn.append(torch.tensor([-100] * len(first) + last))
    ids = pad_sequence(read, batch_first=True, padding_value=0)
    return {
        "input_ids": ids,
        "attention_mask": pad_sequence([torch.ones_like(each) for each in read], batch_first=True),
        "labels": pad_sequence(learn, batch_first=True, padding_value=-100),
    }


if __name__ == "__main__":
    main()
