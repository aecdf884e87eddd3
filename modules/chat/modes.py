"""Turn conversations into prompts, in each of the modes.

instruct: a system message and messages in the model's own template. chat: the script of a conversation with a
character. chat-instruct: that script as a part of one question in the model's template, which asks for its next line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from modules.chat.image_tokens import ImageTokens
from modules.chat.message import Message
from modules.chat.own_name import NamedReplyParser
from modules.chat.participants import CHAT, INSTRUCT, ParticipantResolver, Participants
from modules.chat.pictures import PathMessages, path_messages
from modules.chat.prompt import ChatPrompt, PromptForm, chat_prompt, instruct_form, prompt_text
from modules.chat.script import Script
from modules.chat.stop_strings import template_stops
from modules.chat.templates import ChatTemplates
from modules.config.settings import PROMPT_PLACEHOLDER
from modules.conversations.conversation import ChatMessage, Conversation
from modules.conversations.exporters.blobs import ReadBlob
from modules.core.events import Done, Json
from modules.core.prompt import Prompt
from modules.core.reasoning import ReasoningParser
from modules.runtime.loaded_model import LoadedModel

CHARACTER_PLACEHOLDER = "<|character|>"

Parser = ReasoningParser | NamedReplyParser


@dataclass(frozen=True)
class PromptOptions:
    """The purpose of a prompt: a reply that begins with `start_with`, or the rest of the last message (`continues`).

    With `impersonates` it is the user's next message, which begins with `start_with`. `template_kwargs` are variables
    of the model's template.
    """

    continues: bool = False
    start_with: str = ""
    impersonates: bool = False
    template_kwargs: Mapping[str, Json] | None = None


@dataclass(frozen=True)
class ReplyPrompt:
    """The prompt of a reply in a conversation. `ids` are those of the messages, "" for a system message.

    White space and one of `names` do not belong to the beginning of the reply; None where that is not looked for.
    `left_out` counts the pictures of the conversation that the model does not get.
    """

    chat: ChatPrompt
    ids: tuple[str, ...]
    names: tuple[str, ...] | None = None
    left_out: int = 0

    @property
    def prompt(self) -> Prompt:
        return self.chat.prompt

    def parser(self) -> Parser:
        """Return the parser of the reply. Feed it the text that a reply was to start with first, but not a message of
        the user."""
        parser = self.chat.parser()
        return parser if self.names is None else NamedReplyParser(parser, self.names)

    def first_message(self, done: Done) -> str | None:
        """Return the id of the first message that the model got, None if nothing was dropped for this reply."""
        first = self.chat.first_message(done)
        return None if first is None else self.ids[first]


class ConversationPrompts:
    """Makes the prompts of all conversations. Any thread may call.

    Methods raise what `ChatTemplates.render` and `ParticipantResolver.of` raise.
    """

    def __init__(self, templates: ChatTemplates, participants: ParticipantResolver) -> None:
        self.templates, self.participants = templates, participants
        self._image_tokens = ImageTokens()

    def reply(
        self,
        model: LoadedModel,
        conversation: Conversation,
        path: Sequence[ChatMessage],
        params: Mapping[str, Json],
        options: PromptOptions,
        dropped_until: str = "",
        read_blob: ReadBlob | None = None,
    ) -> ReplyPrompt:
        """Return the prompt for what the `options` ask for after the messages of `path`.

        Those before `dropped_until` are left out, as far as `chat_prompt` does so. A model that reads pictures gets
        those that `read_blob` returns.
        """
        sent = path_messages(path, read_blob if model.info.images else None)
        dialogue = self._dialogue(model, conversation, path, sent, options)
        prompt = chat_prompt(
            self.templates,
            model,
            dialogue.messages,
            params,
            continue_last=options.continues,
            dropped_until=dialogue.index_of(dropped_until),
            form=dialogue.form,
            images=sent.images,
        )
        if options.impersonates and options.start_with:
            prompt = dataclasses.replace(prompt, markers=(), inside=False, begun=True)
        begun = path[-1].content if options.continues else options.start_with if options.impersonates else ""
        names = () if options.impersonates and dialogue.names is None else dialogue.names
        return ReplyPrompt(prompt, dialogue.ids, None if begun else names, sent.left_out)

    def text(
        self, model: LoadedModel, conversation: Conversation, template_kwargs: Mapping[str, Json] | None = None
    ) -> str:
        """Return the prompt for a reply to the messages that are shown, without pictures."""
        return self._shown_text(model, conversation, path_messages(conversation.path(), None), template_kwargs)

    def _shown_text(
        self,
        model: LoadedModel,
        conversation: Conversation,
        sent: PathMessages,
        template_kwargs: Mapping[str, Json] | None,
    ) -> str:
        options = PromptOptions(template_kwargs=template_kwargs)
        dialogue = self._dialogue(model, conversation, conversation.path(), sent, options)
        dropped = dialogue.index_of(conversation.dropped_until)
        return prompt_text(dialogue.messages, dialogue.form, dropped)

    def count(
        self,
        model: LoadedModel,
        conversation: Conversation,
        template_kwargs: Mapping[str, Json] | None = None,
        read_blob: ReadBlob | None = None,
    ) -> int:
        """Return how many tokens the prompt for a reply has, with the pictures that `reply` would send.

        Asks the worker.
        """
        sent = path_messages(conversation.path(), read_blob if model.info.images else None)
        text = self._shown_text(model, conversation, sent, template_kwargs)
        template = self.templates.of(model.record, model.info)
        image_text = self.templates.image_text(template) if sent.images else ""
        return self._image_tokens.count(model, text, sent.images, image_text)

    def _dialogue(
        self,
        model: LoadedModel,
        conversation: Conversation,
        path: Sequence[ChatMessage],
        sent: PathMessages,
        options: PromptOptions,
    ) -> _Dialogue:
        if conversation.mode == INSTRUCT:
            own = instruct_form(self.templates, model, options.template_kwargs, options.start_with)
            form = self._with_stops(_impersonating(own, options.start_with) if options.impersonates else own)
            return _Dialogue.of(_system(conversation.system), sent.messages, path, form)
        people, settings = self.participants.of(conversation), self.participants.settings
        tokens = self.templates.of(model.record, model.info).special_tokens
        count = partial(_count_tokens, model)
        script = Script(self.templates, people, settings.chat_template_str, tokens, count)
        if conversation.mode == CHAT:
            form, quoted_system = _chat_form(script, options), conversation.system
        else:
            own = instruct_form(self.templates, model, options.template_kwargs, options.start_with)
            system = _system(script.system_message(conversation.system))
            command = _command(settings.chat_instruct_command, people, options)
            form, quoted_system = _chat_instruct_form(own, script, command, system, options), None
        opening = script.opening([message.content for message in path], quoted_system)
        speaker, listener = (people.user, people.char) if options.impersonates else (people.char, people.user)
        form = self._with_stops(form, f"\n{listener}:", f"\n{listener}：")
        names = (speaker,) if options.impersonates else (speaker, listener)
        return _Dialogue.of(opening, _stripped(sent.messages, options), path, form, names)

    def _with_stops(self, form: PromptForm, *more: str) -> PromptForm:
        """Return the form with the strings by which its template separates messages."""
        stops = template_stops(self.templates, form.template)
        return dataclasses.replace(form, stop=tuple(dict.fromkeys([*stops, *more])))


@dataclass(frozen=True)
class _Dialogue:
    """The messages of a conversation as its mode has them, their ids ("" for a system message), and their form."""

    messages: tuple[Message, ...]
    ids: tuple[str, ...]
    form: PromptForm
    names: tuple[str, ...] | None = None

    @staticmethod
    def of(
        opening: Sequence[Message],
        messages: Sequence[Message],
        path: Sequence[ChatMessage],
        form: PromptForm,
        names: tuple[str, ...] | None = None,
    ) -> _Dialogue:
        ids = (*("" for _ in opening), *(message.id for message in path))
        return _Dialogue((*opening, *messages), ids, form, names)

    def index_of(self, id: str) -> int:
        """Return the index of a message, 0 if it is not among them."""
        return self.ids.index(id) if id and id in self.ids else 0


def _impersonating(form: PromptForm, begun: str) -> PromptForm:
    """Return the form of a prompt for the user's next message, of which `begun` is the beginning."""

    def render(messages: Sequence[Message], _continue_last: bool) -> str:
        return form.render([*messages, _user(begun)], True)

    return PromptForm(render, form.template, needs_text=True)


def _chat_form(script: Script, options: PromptOptions) -> PromptForm:
    """Return the form of a script alone."""

    def render(messages: Sequence[Message], continue_last: bool) -> str:
        if options.impersonates:
            text = script.render([*messages, _user(options.start_with)], continue_last=True)
            return text if options.start_with else text.rstrip(" ")  # models write the space with the first word
        if options.start_with and not continue_last:
            begun = {"role": "assistant", "content": options.start_with}
            return script.render_reply([*messages, begun], continue_last=True)
        return script.render_reply(messages, continue_last=continue_last)

    return PromptForm(render, script.template, begun=options.start_with, needs_text=options.impersonates)


def _chat_instruct_form(
    own: PromptForm, script: Script, command: str, system: Sequence[Message], options: PromptOptions
) -> PromptForm:
    """Return the form of a script within a question in the model's own template."""
    post_history = "" if options.impersonates else script.post_history()

    def render(messages: Sequence[Message], continue_last: bool) -> str:
        earlier, last = (messages[:-1], messages[-1:]) if continue_last else (messages, ())
        lines = script.render(earlier, generation_prompt=False) if earlier else ""
        question = command.replace(PROMPT_PLACEHOLDER, f"{lines}{post_history}\n" if post_history else lines)
        return own.render([*system, _user(question), *last], continue_last)

    return PromptForm(
        render,
        own.template,
        start_with=options.start_with if options.impersonates else own.start_with,
        before=tuple(system),
        begun=options.start_with,
        needs_text=options.impersonates,
    )


def _command(setting: str, people: Participants, options: PromptOptions) -> str:
    """Return the command of chat-instruct, in which only the script is missing."""
    speaker = people.user if options.impersonates else people.char
    return people.fill(setting.replace(CHARACTER_PLACEHOLDER, speaker))


def _count_tokens(model: LoadedModel, text: str) -> int:
    return int(model.ask("count", text=text))


def _stripped(messages: Sequence[Message], options: PromptOptions) -> list[Message]:
    """Return the messages for a script, without white space around them, except for one that is continued."""
    last = len(messages) - 1 if options.continues else len(messages)
    return [
        {**message, "content": str(message["content"]).strip()} if index != last else message
        for index, message in enumerate(messages)
    ]


def _system(text: str) -> list[Message]:
    return [{"role": "system", "content": text}] if text.strip() else []


def _user(text: str) -> Message:
    return {"role": "user", "content": text}
