"""Errors of models that turn texts into vectors or scores, and of requests for those that do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modules.core.errors import WebUIError, Words
from modules.core.worker_errors import PromptTooLong

KINDS: Mapping[str, Words] = {
    "": {"en": "generates text", "zh": "用于生成文本"},
    "embed": {"en": "is an embedding model", "zh": "是嵌入模型"},
    "rank": {"en": "is a reranking model", "zh": "是重排序模型"},
}
"""What a model does, by its task: see `Info.task`."""


@dataclass(eq=False)
class WrongTask(WebUIError):
    """A model that was asked for what it does not do. `kind` is what it does, one of KINDS."""

    status = 400
    model: str
    kind: Words


class CannotGenerate(WrongTask):
    template = {
        "en": "{model} {kind}: it cannot chat or continue texts. Load another model for that.",
        "zh": "{model} {kind}，不能聊天或续写。请为此加载其他模型。",
    }


class CannotEmbed(WrongTask):
    template = {
        "en": "{model} {kind} and has no embeddings: the vectors inside it do not compare the meaning of texts. Name "
        "an embedding model, such as bge-m3 or nomic-embed-text.",
        "zh": "{model} {kind}，没有嵌入功能：其内部向量不能用来比较文本的含义。请指定嵌入模型，例如 bge-m3 或 "
        "nomic-embed-text。",
    }


class CannotRank(WrongTask):
    template = {
        "en": "{model} {kind}: it does not score documents. Name a reranking model, such as bge-reranker-v2-m3.",
        "zh": "{model} {kind}，不能为文档打分。请指定重排序模型，例如 bge-reranker-v2-m3。",
    }


@dataclass(eq=False)
class InputTooLong(PromptTooLong):
    """A text to embed, or a query with a document, of more tokens than the model takes. `field` is where it was."""

    template = {
        "en": "{field} has {tokens} tokens, but the model takes at most {limit} at once. Split it.",
        "zh": "{field} 有 {tokens} 个词符，而模型一次最多处理 {limit} 个。请将其拆分。",
    }
    field: str


@dataclass(eq=False)
class ForeignTokens(WebUIError):
    """Token numbers that are not as the model's own tokenizer writes a text."""

    status = 400
    template = {
        "en": "{field}: these numbers are not how this model's tokenizer writes a text, with its special tokens; "
        "vectors of them would be meaningless. Send texts (in langchain's OpenAIEmbeddings: "
        "check_embedding_ctx_length=False).",
        "zh": "{field}：这些编号不是此模型的词符化器（连同其特殊词符）写出的文本，由此得到的向量没有意义。"
        "请发送文本（langchain 的 OpenAIEmbeddings 请设置 check_embedding_ctx_length=False）。",
    }
    field: str
