"""Folders of PyTorch weights that compute vectors of texts or scores of documents, through Transformers.

What sentence-transformers would do after the model is read from its files: `modules.json` names the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from modules.core.errors import Unsupported
from modules.core.events import Info, Note
from modules.engines.embedding_engine import EmbeddingEngine, Encoded, packed, sigmoid
from modules.engines.engine_protocol import Report
from modules.engines.hf.arguments import TOKENIZER, Environment, ModelConfig, arguments, model_call
from modules.engines.hf.embedding_steps import DenseLayer, EmbeddingSteps
from modules.engines.hf.model import load_tokenizer, progress_of_weights, python_arguments
from modules.engines.hf.model_folder import folder_for_transformers, in_folder
from modules.engines.hf.notes import notes
from modules.engines.hf.token_text import TextTokenizer
from modules.engines.progress import whole_percents
from modules.formats.embedding import EMBED, RANK, may_be_shortened
from modules.options.option import Value
from modules.system import cpu_memory

PACKED_TOKENS = 4096
"""Tokens of several texts that are computed together, padding included."""
MAX_TEXTS = 32

_UNUSED_HEADS = ("pooler.", "lm_head.", "cls.")
"""Tensors that a model may lack: nothing here uses them."""
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"Identity": lambda values: values, "Tanh": torch.tanh}


def embedding_engine(path: Path, options: Mapping[str, Value], environment: Environment, report: Report) -> HfEmbedding:
    """Load the model in the folder `path`. Raises Unsupported for steps after the model that are not known here."""
    config = ModelConfig(path)
    steps = EmbeddingSteps.read(path) if config.task == EMBED else EmbeddingSteps()
    calls = in_folder(arguments(path, options, environment), folder_for_transformers(path))
    tokenizer = load_tokenizer(calls[TOKENIZER])
    name, args = model_call(calls)
    with progress_of_weights(whole_percents(report)):
        module, info = getattr(transformers, name).from_pretrained(**python_arguments(args), output_loading_info=True)
    missing = sorted(key for key in info["missing_keys"] if config.task == RANK or not key.startswith(_UNUSED_HEADS))
    if missing:
        raise ValueError(f"missing tensor '{missing[0]}' and {len(missing) - 1} more")
    engine = HfEmbedding(path, config, TextTokenizer(tokenizer), module, steps)
    engine.describe(tuple(notes(path, options, environment)))
    return engine


class HfEmbedding(EmbeddingEngine):
    """A `SerialEngine` on one model of transformers."""

    def __init__(
        self, path: Path, config: ModelConfig, tokenizer: TextTokenizer, module: Any, steps: EmbeddingSteps
    ) -> None:
        self.name = path.name
        self._config, self._tokenizer, self._module, self._steps = config, tokenizer, module.eval(), steps
        self._dense = [_dense(layer) for layer in steps.dense]
        self._pad = tokenizer.tokenizer.pad_token_id or 0
        if getattr(module.config, "pad_token_id", None) is None:  # decoders that rank find the end of a text by it
            module.config.pad_token_id = self._pad
        self.longest = self._longest()
        self.questions = tokenizer.questions
        self.prompts, self.default_prompt = steps.prompts, steps.default_prompt

    def _longest(self) -> int:
        """Return the tokens of a text at most: by the model's positions, its tokenizer and sentence-transformers."""
        positions = self._config.max_context - (self._pad + 1 if _counts_from_padding(self._module) else 0)
        stated = (self._tokenizer.tokenizer.model_max_length, self._steps.longest)
        return int(min([positions, *(limit for limit in stated if 0 < limit < 1 << 20)]))

    def describe(self, notes: tuple[Note, ...]) -> None:
        """Compute the vector of one text, and set `info`."""
        self.info = Info(context_length=self.longest, task=self._config.task)
        width = self.compute([Encoded(self.encode("a"))]).shape[1]
        self.info = Info(
            context_length=self.longest,
            special_tokens=self._tokenizer.special_tokens,
            memory=cpu_memory.resident_memory(),
            notes=notes,
            vocabulary_size=min(self._tokenizer.vocabulary_size, int(self._module.config.get_text_config().vocab_size)),
            task=self._config.task,
            dimensions=width if self._config.task == EMBED else 0,
            may_shorten=self._config.is_matryoshka or may_be_shortened(self.name),
        )
        self.operations = self.task_operations()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def encode_pair(self, query: str, document: str) -> Encoded:
        both = self._tokenizer.tokenizer(query, document)
        return Encoded(both["input_ids"], both.get("token_type_ids", ()))

    def compute(self, texts: Sequence[Encoded]) -> NDArray[np.float32]:
        results: list[tuple[list[int], NDArray[np.float32]]] = []
        for group in packed(texts, _padded_size, PACKED_TOKENS, MAX_TEXTS):
            results.append((group, self._forward([texts[index] for index in group])))
        ordered = np.empty((len(texts), results[0][1].shape[1]), np.float32)
        for group, rows in results:
            ordered[group] = rows
        return ordered

    def _forward(self, texts: Sequence[Encoded]) -> NDArray[np.float32]:
        """Return the vectors or scores of texts that are padded on the right to the length of the longest."""
        length = max(len(text.tokens) for text in texts)
        device = self._module.device
        ids = torch.full((len(texts), length), self._pad, device=device)
        mask = torch.zeros((len(texts), length), dtype=torch.long, device=device)
        types = torch.zeros_like(mask)
        for row, text in enumerate(texts):
            count = len(text.tokens)
            ids[row, :count], mask[row, :count] = torch.tensor(text.tokens), 1
            if text.types:
                types[row, :count] = torch.tensor(text.types)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if any(text.types for text in texts):
            inputs["token_type_ids"] = types
        with torch.inference_mode():
            out = self._module(**inputs, return_dict=True)
            if self._config.task == RANK:
                logits: NDArray[np.float32] = out.logits[:, :1].float().cpu().numpy()
                return sigmoid(logits)
            vectors = _pooled(out.last_hidden_state.float(), mask, self._steps.pooling)
            for layer in self._dense:
                vectors = layer(vectors)
        result: NDArray[np.float32] = vectors.cpu().numpy()
        return result


def _padded_size(texts: Sequence[Encoded]) -> int:
    return len(texts) * max(len(text.tokens) for text in texts)


def _counts_from_padding(module: Any) -> bool:
    """Whether positions are counted from the padding token's number on, as RoBERTa's are."""
    return str(module.config.model_type).endswith(("roberta", "camembert", "mpnet"))


def _pooled(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Return one vector a text, of `hidden` [texts, tokens, width] padded on the right."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "lasttoken":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
    weights = mask[:, :, None].to(hidden.dtype)
    if pooling == "max":
        return hidden.masked_fill(weights == 0, -torch.inf).amax(1)
    return (hidden * weights).sum(1) / weights.sum(1)


def _dense(layer: DenseLayer) -> Callable[[Tensor], Tensor]:
    """Return a linear layer after the pooling, with its activation. Raises Unsupported for another activation."""
    activation = _ACTIVATIONS.get(layer.activation)
    if activation is None:
        raise Unsupported(
            {
                "en": f"The activation {layer.activation} of an embedding model's last layer is not supported.",
                "zh": f"不支持嵌入模型最后一层的激活函数 {layer.activation}。",
            }
        )
    tensors = load_file(layer.weights)
    weight, bias = tensors["linear.weight"].float(), tensors.get("linear.bias")
    return lambda vectors: activation(
        torch.nn.functional.linear(
            vectors, weight.to(vectors.device), None if bias is None else bias.float().to(vectors.device)
        )
    )
