"""Vectors of texts and scores of documents: what engines of both backends share. Imported by workers alone."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modules.core.embedding_errors import KINDS, CannotGenerate, ForeignTokens, InputTooLong
from modules.core.errors import OptionError
from modules.core.events import Done, Info, Json, Progress, Text
from modules.engines.engine_protocol import Operations
from modules.engines.prompt_fitting import LONGEST_TOKEN
from modules.formats.embedding import EMBED, RANK

_SOME_TEXT = {"en": "a text of at least one token", "zh": "至少含一个词符的文本"}
_NO_DIMENSIONS = {
    "en": "{0}, as this model was not trained to give shorter vectors",
    "zh": " {0}：此模型未经过缩短向量的训练",
}
_DIMENSIONS = {"en": "a whole number from 1 to {0}", "zh": " 1 到 {0} 之间的整数"}
_PROMPTS = {"en": "one of {0}", "zh": "以下之一：{0}"}
_NO_PROMPTS = {"en": "nothing, as this model has no prompts", "zh": "空：此模型没有预设的提示"}


@dataclass(frozen=True)
class Encoded:
    """The tokens of a text, or of a query and a document. `types` tell both apart, if the model has token types."""

    tokens: Sequence[int]
    types: Sequence[int] = ()


class EmbeddingEngine(ABC):
    """A `SerialEngine` with the operation "embed" or "rank" that refuses to generate text.

    `info` says which, `name` is that of the model. `longest` is the number of tokens that a text may have. `prompts`
    are texts to put before the input, by name; `default_prompt` names the one for requests that name none.
    """

    name: str
    info: Info
    questions: Operations
    operations: Operations
    longest: int
    prompts: Mapping[str, str] = {}
    default_prompt: str = ""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text with all special tokens around it."""

    @abstractmethod
    def encode_pair(self, query: str, document: str) -> Encoded:
        """Return the tokens of a query and a document, as a model that ranks reads them."""

    @abstractmethod
    def compute(self, texts: Sequence[Encoded]) -> NDArray[np.float32]:
        """Return the vector of each text, or of one number its score: shape [texts, dimensions]."""

    def task_operations(self) -> Operations:
        """Return the operation of the model's task."""
        return {EMBED: self.embed} if self.info.task == EMBED else {RANK: self.rank}

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        return self.encode(text)

    def generate(self, prompt: list[int], params: Mapping[str, Json]) -> Generator[Text | Progress, None, Done]:
        raise CannotGenerate(self.name, KINDS[self.info.task])
        yield  # a generator, as a SerialEngine has it

    # -- operations -----------------------------------------------------------------------------------------------

    def embed(self, inputs: Sequence[str | list[int]], first: int = 0, dimensions: int = 0, prompt: str = "") -> Json:
        """Return {"vectors": […], "tokens": n} of texts, or of their tokens with the special ones.

        A vector is base64 of little-endian float32, of length 1, cut to `dimensions` first if that is not 0. Errors
        number the inputs from `first`. Raises OptionError, ForeignTokens or InputTooLong.
        """
        size = self._checked_dimensions(dimensions)
        before = self._prompt(prompt)
        texts = [self._encoded(item, f"input[{index}]", before) for index, item in enumerate(inputs, first)]
        vectors = normalized(self.compute(texts)[:, :size])
        coded = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        return {"vectors": coded, "tokens": sum(len(text.tokens) for text in texts)}

    def rank(self, query: str, documents: Sequence[str], first: int = 0) -> Json:
        """Return {"scores": […], "tokens": n}: from 0 to 1, how well each document answers the query.

        Errors number the documents from `first`. Raises InputTooLong.
        """
        self._check_characters(query, "query")
        pairs = []
        for index, document in enumerate(documents, first):
            self._check_characters(document, f"documents[{index}]")
            pair = self.encode_pair(query, document)
            if len(pair.tokens) > self.longest:
                raise InputTooLong(len(pair.tokens), self.longest, f"documents[{index}] + query")
            pairs.append(pair)
        scores = self.compute(pairs)[:, 0].astype(float)
        return {"scores": scores.tolist(), "tokens": sum(len(pair.tokens) for pair in pairs)}

    def _encoded(self, item: str | list[int], field: str, before: str) -> Encoded:
        if isinstance(item, str):
            self._check_characters(item, field)
            tokens = self.encode(before + item)
        else:
            tokens = self._own_tokens(item, field)
        if not tokens:
            raise OptionError(field, item, _SOME_TEXT)
        if len(tokens) > self.longest:
            raise InputTooLong(len(tokens), self.longest, field)
        return Encoded(tokens)

    def _own_tokens(self, tokens: list[int], field: str) -> list[int]:
        """Return `tokens` if this model's tokenizer may have written them.

        Clients such as langchain send those of OpenAI's tokenizer unasked, most of which exist here, too, for other
        words. Only the special tokens around a text give them away; without any, the text of the tokens does.
        """
        begin, end = self.special_tokens()
        if any(not 0 <= token < self.info.vocabulary_size for token in tokens):
            own = False
        elif begin or end:
            last = tokens[max(len(tokens) - len(end), len(begin)) :] if end else []
            own = tokens[: len(begin)] == begin and last == end
        else:
            own = self.questions["encode"](text=self.questions["decode"](tokens=tokens)) == tokens
        if not own:
            raise ForeignTokens(field)
        return tokens

    def special_tokens(self) -> tuple[list[int], list[int]]:
        """Return the tokens that every text begins with, and those that it ends with."""
        none, some = self.encode(""), self.encode("a")
        begin = next((index for index, token in enumerate(some) if none[index : index + 1] != [token]), 0)
        return none[:begin], none[begin:]

    def _check_characters(self, text: str, field: str) -> None:
        """Refuse a text that is too long whatever its tokens are, without tokenizing it. A token is one at least."""
        if len(text) > LONGEST_TOKEN * self.longest:
            raise InputTooLong(len(text) // LONGEST_TOKEN, self.longest, field)

    def _checked_dimensions(self, dimensions: int) -> int:
        full = self.info.dimensions
        if not dimensions or dimensions == full:
            return full
        words = _DIMENSIONS if self.info.may_shorten else _NO_DIMENSIONS
        if not self.info.may_shorten or dimensions > full:
            raise OptionError("dimensions", dimensions, {key: text.format(full) for key, text in words.items()})
        return dimensions

    def _prompt(self, name: str) -> str:
        if name and name not in self.prompts:
            words = _PROMPTS if self.prompts else _NO_PROMPTS
            names = ", ".join(sorted(self.prompts))
            raise OptionError("prompt_name", name, {key: text.format(names) for key, text in words.items()})
        return self.prompts.get(name or self.default_prompt, "")


def normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows of `vectors` divided by their lengths. A row of zeros stays."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def sigmoid(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-scores.astype(np.float64)))).astype(np.float32)


def packed(
    texts: Sequence[Encoded], size: Callable[[Sequence[Encoded]], int], capacity: int, most: int
) -> Iterator[list[int]]:
    """Yield the indices of texts to compute together, the shortest first.

    A group has at most `most` texts whose `size` is at most `capacity`, or one text alone.
    """
    group: list[int] = []
    for index in sorted(range(len(texts)), key=lambda index: len(texts[index].tokens)):
        longer = [texts[member] for member in (*group, index)]
        if group and (len(longer) > most or size(longer) > capacity):
            yield group
            group = []
        group.append(index)
    if group:
        yield group
