"""Errors of chat templates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from modules.core.errors import UnknownName, WebUIError, Words


@dataclass(eq=False)
class TemplateRefused(WebUIError):
    """A template that refused the messages, or that is broken; `reason` is Jinja's or the template's own message.

    `line` is the line of the template in which it did so, 0 if it is not known.
    """

    status = 400
    template = {
        "en": "The chat template of {model} refused these messages: {reason}",
        "zh": "{model} 的聊天模板拒绝了这些消息：{reason}",
    }
    model: str
    reason: str
    line: int = 0
    position: ClassVar[Words] = {"en": " (line {line})", "zh": "（第 {line} 行）"}

    def say(self, language: str) -> str:
        position = self.position[language].format(line=self.line) if self.line else ""
        return super().say(language) + position


class MessageLeftOut(WebUIError):
    """A template that does not write the user's message into the prompt."""

    status = 422
    template = {
        "en": "This template leaves the user's message out of the prompt, so it was not chosen. "
        "It must write the content of `messages`.",
        "zh": "该模板没有把用户消息写入提示词，因此未采用。模板必须输出 messages 中的内容。",
    }


@dataclass(eq=False)
class TemplateStopped(WebUIError):
    """A template that needed more than it may have; `limit` says what."""

    status = 400
    template = {
        "en": "The chat template of {model} was stopped: {limit}. "
        "If a short conversation is stopped as well, the template is faulty or malicious.",
        "zh": "{model} 的聊天模板已被终止：{limit}。如果简短的对话也被终止，说明该模板有错误或含恶意代码。",
    }
    model: str
    limit: Words


@dataclass(eq=False)
class NoDefaultTemplate(WebUIError):
    """Several templates of a model, none of which is for plain conversations."""

    status = 400
    template = {
        "en": "{model} has several chat templates ({names}), but none named 'default'. "
        "Give one of them that name in the model's tokenizer_config.json.",
        "zh": "{model} 带有多个聊天模板（{names}），但没有名为 default 的。"
        "请在模型的 tokenizer_config.json 中将其中一个命名为 default。",
    }
    model: str
    names: str


class TemplateNotFound(UnknownName):
    status = 404
    template = {"en": "There is no instruction template {name!r}.", "zh": "没有名为{name!r}的指令模板。"}


@dataclass(eq=False)
class InvalidTemplateFile(WebUIError):
    """A file that is no instruction template. `problem` says why, as the end of a sentence."""

    status = 422
    template = {
        "en": "{file} cannot be used as an instruction template: {problem}.",
        "zh": "{file} 不能用作指令模板：{problem}。",
    }
    file: str
    problem: Words


@dataclass(eq=False)
class ChosenTemplateUnusable(WebUIError):
    """The template chosen for a model cannot be read; `reason` is the message of the error."""

    status = 409
    template = {
        "en": "The instruction template {name} was chosen for {model}, but it cannot be used: {reason} "
        "Correct it, or choose another one under “Instruction template” on the Model page.",
        "zh": "已为 {model} 指定指令模板 {name}，但无法使用：{reason}"
        "请修正该模板，或在“模型”页的“指令模板”中另选一个。",
    }
    template_elsewhere = {
        "en": "The instruction template {name} was chosen for {model}, but it cannot be used: {reason} "
        "Correct it, or name another one as instruction_template of the model in models/config-user.yaml.",
        "zh": "已为 {model} 指定指令模板 {name}，但无法使用：{reason}"
        "请修正该模板，或在 models/config-user.yaml 中为该模型的 instruction_template 另填一个。",
    }
    model: str
    name: str
    reason: Words


@dataclass(eq=False)
class ConversationBusy(WebUIError):
    """A conversation in which an answer is being written takes no other request for one."""

    status = 409
    template = {
        "en": "An answer is being written in this conversation. Stop it first, or wait for its end.",
        "zh": "此对话正在生成回复。请先停止，或等待其完成。",
    }


@dataclass(eq=False)
class NothingToAnswer(WebUIError):
    """A request for an answer where there is no question, or to continue what is no answer."""

    status = 400
    template = {
        "en": "There is nothing to answer or to continue here.",
        "zh": "这里没有可以回答或续写的消息。",
    }


@dataclass(eq=False)
class ConversationBegun(WebUIError):
    """The character of a conversation in which the user has written stays."""

    status = 409
    template = {
        "en": "The character cannot be changed any more, because you have written in this conversation. "
        "Begin a new chat with the other character.",
        "zh": "您已在此对话中发言，无法再更换角色。请与其他角色开始新对话。",
    }


@dataclass(eq=False)
class ImageRefused(WebUIError):
    """A picture that no model gets; `reason` says why, as the end of a sentence. `where` says which one, if set."""

    status = 400
    template = {"en": "The image cannot be used: {reason}.", "zh": "无法使用该图片：{reason}。"}
    reason: Words
    where: str = ""
    colon: ClassVar[Words] = {"en": ": ", "zh": "："}

    def say(self, language: str) -> str:
        return (f"{self.where}{self.colon[language]}" if self.where else "") + super().say(language)


@dataclass(eq=False)
class ImagesUnsupported(WebUIError):
    """Pictures for a model that reads text alone."""

    status = 400
    template = {
        "en": "{model} cannot read images with the loader {loader}. Load a vision model with llama.cpp (a GGUF file "
        "that has its mmproj file beside it) or Transformers (a folder of weights with preprocessor_config.json), or "
        "send the text alone.",
        "zh": "{model} 使用加载器 {loader} 时无法识别图片。请用 llama.cpp（GGUF 文件，"
        "其 mmproj 文件须放在同一文件夹）或 Transformers（权重文件夹，须含 preprocessor_config.json）加载视觉模型，"
        "或只发送文字。",
    }
    model: str
    loader: str


@dataclass(eq=False)
class ImageLeftOut(WebUIError):
    """A chat template that leaves out the message with a picture, or writes it twice."""

    status = 400
    template = {
        "en": "The chat template of {model} does not put each image into the prompt once.",
        "zh": "{model} 的聊天模板没有将每张图片恰好写入提示词一次。",
    }
    model: str
