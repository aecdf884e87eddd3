"""Bodies of requests for vectors and scores, and their answers, in OpenAI's and Jina's format."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from modules.api.ignored_fields import shortened
from modules.api.keep_alive import KeepAlive
from modules.api.limits import (
    MAX_CHARACTERS,
    MAX_DOCUMENTS,
    MAX_INPUTS,
    MAX_TOKENS,
)
from modules.api.request_body import Expected, Flag, RequestBody, Text, TextOrTokens
from modules.api.request_fields import MAX_COMPARED, NO_EFFECT, misspelled
from modules.core.errors import OptionError, UnknownOption, Words
from modules.core.events import Json

_CHARACTERS_A_CALL = 32_000
_TEXTS_A_CALL = 32
_TOKEN_CHARACTERS = 4
"""Characters that a token counts for, as English has."""

_MANY_INPUTS: Words = {"en": f"at most {MAX_INPUTS} texts in one request", "zh": f"单次请求不超过 {MAX_INPUTS} 段文本"}
_LONG_INPUT: Words = {
    "en": f"at most {MAX_CHARACTERS} characters, or {MAX_TOKENS} token numbers, in one request",
    "zh": f"单次请求不超过 {MAX_CHARACTERS} 个字符或 {MAX_TOKENS} 个词符编号",
}
_MANY_DOCUMENTS: Words = {
    "en": f"at most {MAX_DOCUMENTS} documents in one request",
    "zh": f"单次请求不超过 {MAX_DOCUMENTS} 个文档",
}
_INPUT = Expected("a text, a list of texts, or lists of token numbers", "文本、文本列表或词符编号列表")
_DOCUMENTS = Expected(
    'a list of texts, or of objects such as {"text": "…"}', '文本列表，或形如 {"text": "…"} 的对象列表'
)
_MODEL = Expected("a name", "名称")

Item = str | list[int]


class TaskRequest(RequestBody):
    """A request that generates no text. Fields that are unknown altogether are reported."""

    model: Annotated[Text, _MODEL] = ""
    keep_alive: KeepAlive = None
    ttl: KeepAlive = None

    @property
    def kept_seconds(self) -> float | None:
        """How long the model stays in memory after the answer; None for the server's own rules."""
        return self.ttl if self.keep_alive is None else self.keep_alive

    def ignored(self, strict: bool) -> list[str]:
        """Return the fields that the answer does without. Raises UnknownOption for a misspelled one.

        With `strict`, it raises that for any.
        """
        known = frozenset(type(self).model_fields)
        names = [name for name in self.model_extra or {} if name not in NO_EFFECT]
        for name in names[:MAX_COMPARED]:
            guess = misspelled(name, known)
            if strict or guess:
                raise UnknownOption(name, guess)
        return names


class EmbeddingRequest(TaskRequest):
    """As in OpenAI's API. `prompt_name` names one of the texts that the model's makers put before an input."""

    input: Annotated[TextOrTokens, Field(union_mode="left_to_right"), _INPUT]
    encoding_format: Annotated[Literal["float", "base64"], Expected("float or base64", " float 或 base64")] = "float"
    dimensions: Annotated[int | None, Field(ge=1, le=65_536), Expected("a number from 1", "不小于 1 的整数")] = None
    prompt_name: Annotated[Text, Expected("the name of one of the model's prompts", "模型预设提示的名称")] = ""

    @property
    def items(self) -> list[Item]:
        """The inputs, each a text or its tokens. Raises OptionError if there are none, or too many."""
        given: Any = self.input
        single = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
        items: list[Item] = [given] if single else given
        if not items:
            raise OptionError("input", "[]", _INPUT.words)
        if len(items) > MAX_INPUTS:
            raise OptionError("input", len(items), _MANY_INPUTS)
        characters = sum(len(item) for item in items if isinstance(item, str))
        tokens = sum(len(item) for item in items if isinstance(item, list))
        if characters > MAX_CHARACTERS or tokens > MAX_TOKENS:
            raise OptionError("input", characters or tokens, _LONG_INPUT)
        return items


class RerankRequest(TaskRequest):
    """As in Jina's API and llama-server's."""

    query: Annotated[Text, Expected("a text", "文本")]
    documents: Annotated[list[Text | dict[str, Any]], Field(fail_fast=True), _DOCUMENTS]
    top_n: Annotated[int | None, Field(ge=1), Expected("a number from 1", "不小于 1 的整数")] = None
    return_documents: Flag = False

    @property
    def texts(self) -> list[str]:
        """The documents. Raises OptionError if there are none, too many, or one has no text."""
        if not self.documents:
            raise OptionError("documents", "[]", _DOCUMENTS.words)
        if len(self.documents) > MAX_DOCUMENTS:
            raise OptionError("documents", len(self.documents), _MANY_DOCUMENTS)
        texts = []
        for index, document in enumerate(self.documents):
            text = document.get("text") if isinstance(document, dict) else document
            if not isinstance(text, str):
                raise OptionError(f"documents[{index}]", str(document)[:80], _DOCUMENTS.words)
            texts.append(text)
        characters = sum(map(len, texts)) + len(self.query) * len(texts)
        if characters > MAX_CHARACTERS:
            raise OptionError("documents", characters, _LONG_INPUT)
        return texts


def parts(items: Sequence[Item], beside: int = 0) -> Iterator[tuple[int, list[Item]]]:
    """Divide a request into calls of the worker, each with the index of its first item.

    Between two calls, others are served, and a client that has left is noticed. `beside` are the characters that come
    with each item.
    """
    first, group, characters = 0, list[Item](), 0
    for item in items:
        cost = beside + len(item) * (1 if isinstance(item, str) else _TOKEN_CHARACTERS)
        if group and (len(group) == _TEXTS_A_CALL or characters + cost > _CHARACTERS_A_CALL):
            yield first, group
            first, group, characters = first + len(group), [], 0
        group.append(item)
        characters += cost
    if group:
        yield first, group


def embedding_body(
    model: str, vectors: Sequence[str], tokens: int, encoding_format: str, ignored: Sequence[str]
) -> Json:
    """Return OpenAI's answer. `vectors` are base64 of little-endian float32, as the client may want them."""
    data = [
        {"object": "embedding", "index": index, "embedding": vector if encoding_format == "base64" else _floats(vector)}
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": model, "usage": _usage(tokens), **_reported(ignored)}


def rerank_body(
    model: str, request: RerankRequest, scores: Sequence[float], tokens: int, ignored: Sequence[str]
) -> Json:
    """Return Jina's answer: the documents that fit best, best first, by their index in the request."""
    ranked = sorted(range(len(scores)), key=lambda index: -scores[index])[: request.top_n]
    texts = request.texts if request.return_documents else []
    results = [
        {"index": index, "relevance_score": scores[index], **({"document": {"text": texts[index]}} if texts else {})}
        for index in ranked
    ]
    return {"object": "list", "model": model, "results": results, "usage": _usage(tokens), **_reported(ignored)}


def _usage(tokens: int) -> Mapping[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _reported(ignored: Sequence[str]) -> Mapping[str, Json]:
    return {"ignored": shortened(ignored)} if ignored else {}


def _floats(vector: str) -> list[float]:
    values = array("f", base64.b64decode(vector))
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()
