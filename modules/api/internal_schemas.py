"""Schemas of the bodies of requests under /v1/internal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from modules.api.request_body import Expected, RequestBody, Text, Texts, Tokens
from modules.core.errors import OptionError

# -- models, tokens, LoRAs ---------------------------------------------------------------------------------------------


class ModelLoadRequest(RequestBody):
    """As in the original web UI: `args` holds "loader" and load options, `settings` generation parameters."""

    model_config = ConfigDict(extra="forbid")

    model_name: Annotated[Text, Expected("the name of a model", "模型名称")]
    args: Annotated[dict[str, Any], Expected('an object such as {"n_ctx": 4096}', '形如 {"n_ctx": 4096} 的对象')] = (
        Field(default_factory=dict)
    )
    settings: Annotated[
        dict[str, Any], Expected('an object such as {"temperature": 0.5}', '形如 {"temperature": 0.5} 的对象')
    ] = Field(default_factory=dict)


class TextRequest(RequestBody):
    model_config = ConfigDict(extra="forbid")

    text: Annotated[Text, Expected("a text", "文本")]


class TokensRequest(RequestBody):
    model_config = ConfigDict(extra="forbid")

    tokens: Annotated[Tokens, Expected("a list of token numbers", "词符编号列表")]


_NAMES = Expected("a list of names of LoRAs", "LoRA 名称列表")
_WEIGHTS = Expected("a list of numbers, one for each LoRA", "数字列表，与 LoRA 一一对应")


class LorasRequest(RequestBody):
    """As in the original web UI, with weights added. Without them, each is 1."""

    model_config = ConfigDict(extra="forbid")

    lora_names: Annotated[Texts, _NAMES]
    lora_weights: Annotated[Annotated[list[float], Field(fail_fast=True)] | None, _WEIGHTS] = None

    @model_validator(mode="after")
    def _check_lengths(self) -> LorasRequest:
        weights = self.lora_weights
        if weights is not None and len(weights) != len(self.lora_names):
            raise OptionError("lora_weights", str(weights), _WEIGHTS.words)
        return self


# -- downloads -------------------------------------------------------------------------------------------------------

_FILES = Expected("a list of file names", "文件名列表")
_ID = Expected("the id of a download", "下载任务的编号")


class DownloadRequest(RequestBody):
    """`repo` is user/model, user/model:branch or a link to it. Without `files`, the UI's preselection is downloaded."""

    model_config = ConfigDict(extra="forbid")

    repo: Annotated[Text, Expected("user/model or a link", "用户名/模型名或链接")]
    revision: Annotated[Text, Expected("a branch or commit", "分支或版本")] = ""
    files: Annotated[Texts, _FILES] = Field(default_factory=list)
    kind: Annotated[Literal["model", "lora"] | None, Expected("model or lora", " model 或 lora")] = None

    @model_validator(mode="before")
    @classmethod
    def _accept_url(cls, raw: Any) -> Any:
        """Accept "url" as another name of `repo`."""
        if isinstance(raw, Mapping) and "url" in raw and "repo" not in raw:
            return {"repo" if key == "url" else key: value for key, value in raw.items()}
        return raw


class JobRequest(RequestBody):
    model_config = ConfigDict(extra="forbid")

    id: Annotated[Text, _ID]


class ResumeRequest(JobRequest):
    """`keep_commit` decides what to do if the branch has moved: resume the old commit, or restart with the new one."""

    keep_commit: Annotated[bool | None, Expected("true or false", " true 或 false")] = None
