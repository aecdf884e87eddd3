"""Describe what one page shows of a conversation, as JSON for its script. No message is sent twice."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping

from modules.app import App
from modules.chat.participants import INSTRUCT
from modules.chat.pictures import IMAGE
from modules.chat.run import RunState
from modules.conversations.conversation import Attachment, ChatMessage, Conversation
from modules.core.errors import WebUIError
from modules.core.events import Json
from modules.core.worker_errors import WorkerDied, WorkerStuck
from modules.ui.chat.markdown import Renderer, StreamingMarkdown
from modules.ui.handlers import Page
from modules.ui.widgets.messages import decimal_size

_LONGEST_SECONDS = 1e6
"""More than any prompt takes: a receipt that says so was not written by this program."""


class ConversationView:
    """One open stream of events: remembers which messages, and which blocks of the answer, its page has."""

    def __init__(self, page: Page, renderer: Renderer) -> None:
        self._page, self._renderer = page, renderer
        self._sent: dict[str, int] = {}
        self._live = ""
        self._content, self._reasoning = StreamingMarkdown(renderer), StreamingMarkdown(renderer)

    def snapshot(self, conversation: Conversation, run: RunState | None, failure: RunState | None) -> Json:
        """Return the conversation: `order` has the ids of the messages shown, `messages` those that are new or changed.

        Each message has the HTML of its blocks, its text, and the ids of its `versions`.
        """
        if self._live and (run is None or run.message != self._live):
            self._finish(conversation)
        path = conversation.path()
        children = _children(conversation)
        changed = {}
        for message in path:
            versions = children[message.parent]
            writing = run is not None and run.message == message.id
            # What an answer that is being written says is sent as `live`.
            seen = hash((tuple(versions), writing, None if writing else _shown(message)))
            if self._sent.get(message.id) != seen:
                self._sent[message.id] = seen
                changed[message.id] = self._message(message, versions, writing)
        participants = self._participants(conversation)
        return {
            "id": conversation.id,
            "rev": conversation.rev,
            "title": conversation.title,
            "system": conversation.system,
            **participants,
            "dropped_until": conversation.dropped_until,
            "order": [message.id for message in path],
            "messages": changed,
            "running": run.message if run else "",
            **self._failure(failure),
        }

    def _failure(self, failure: RunState | None) -> dict[str, Json]:
        """Return as `error` why the last answer failed, and as `load` the model that has ended with it.

        Once a model is ready again, its end is not shown any more.
        """
        error = failure.error if failure else None
        if error is None:
            return {}
        app, load = self._page.app, ""
        if isinstance(error, WorkerDied):
            if _has_model(app):
                return {}
            reloads = isinstance(error, WorkerStuck)
            load = _ended_model(app) if self._page.owner and not reloads else ""
        return {"error": self._page.alert(error), "load": load}

    def _participants(self, conversation: Conversation) -> dict[str, Json]:
        """Return mode, character and persona, and as `error` why the character's texts are not used.

        `picture` differs for another picture, and is "" without one.
        """
        app, id, user, error = self._page.app, conversation.character, "", ""
        picture = app.characters.picture_version(id)
        character: dict[str, Json] = {"id": id, "name": id, "picture": picture, "missing": False}
        try:
            people = app.participants.of(conversation)
        except WebUIError as problem:  # a damaged file
            error = self._page.alert(problem)
        else:
            user, character["name"], character["missing"] = people.user, people.char, people.missing
            if people.missing:
                error = self._page.info("character_without_texts", name=people.char)
        return {
            "mode": conversation.mode,
            "character": character if id else None,
            "persona": {"id": conversation.persona, "name": user},
            "error": error if conversation.mode != INSTRUCT else "",
        }

    def draft(self, state: RunState) -> Json:
        """Return the user's next message as far as the model has written it."""
        ended = state.phase == "ended"
        error = {"error": self._page.alert(state.error)} if ended and state.error else {}
        return {"id": state.conversation, "text": state.content, "done": ended, **error}

    def _finish(self, conversation: Conversation) -> None:
        """Complete the blocks of the answer that was being written, so that it is not rendered once more as a whole."""
        if self._live in conversation.messages:
            answer = conversation.messages[self._live]
            self._content.finish(answer.content)
            self._reasoning.finish(answer.reasoning)
        self._live = ""

    def _message(self, message: ChatMessage, versions: list[str], writing: bool) -> dict[str, Json]:
        render = self._renderer.render_user if message.role == "user" else self._renderer.render
        return {
            "id": message.id,
            "role": message.role,
            "versions": versions,
            "writing": writing,
            "incomplete": message.incomplete and not writing,
            "created": message.created,
            "facts": facts_line(message.receipt, self._page) if isinstance(message.receipt, Mapping) else "",
            "has_receipt": message.receipt is not None,
            "attachments": [_attachment(one) for one in message.attachments],
            "content": message.content,
            "blocks": render(message.content),
            "thoughts": self._renderer.render(message.reasoning) if message.reasoning else [],
            "thought_label": self._thought_label(message.reasoning_seconds),
        }

    def live(self, state: RunState) -> Json:
        """Return what the page does not have yet of an answer that is being written.

        `blocks` replace those from number `first` on; `thoughts` are the same for the reasoning.
        """
        if self._live != state.message:
            self._live = state.message
            self._content, self._reasoning = StreamingMarkdown(self._renderer), StreamingMarkdown(self._renderer)
        first, blocks = self._content.update(state.content)
        first_thought, thoughts = self._reasoning.update(state.reasoning)
        return {
            "id": state.conversation,
            "message": state.message,
            "rev": state.rev,
            "phase": state.phase,
            "first": first,
            "blocks": blocks,
            "first_thought": first_thought,
            "thoughts": thoughts,
            "thought_label": (
                self._page.tr("thoughts") if state.phase == "thinking" else self._thought_label(state.reasoning_seconds)
            ),
            "line": self._progress(state),
        }

    def _progress(self, state: RunState) -> str:
        """Return the line below an answer that is being written."""
        tr = self._page.tr
        if state.phase == "waking":
            return tr("waking")
        if state.phase == "waiting":
            return tr("waiting").format(position=state.position)
        if state.phase == "reading":
            return tr("reading").format(percent=round(state.progress * 100))
        if not state.tokens:
            return ""
        speed = (state.tokens - 1) / state.seconds if state.seconds else 0.0
        return tr("live_speed").format(tokens=state.tokens, speed=f"{speed:.1f}") if speed else ""

    def _thought_label(self, seconds: float) -> str:
        tr = self._page.tr
        return tr("thought_for").format(seconds=max(1, round(seconds))) if seconds else tr("thoughts_done")


def _has_model(app: App) -> bool:
    """Return whether the page's model is ready. Its status may still say so shortly after its worker has ended."""
    try:
        return app.models.current.death is None
    except WebUIError:
        return False


def _ended_model(app: App) -> str:
    """Return the name of the page's model if it has ended by itself; "" if it was unloaded or is being loaded."""
    status = app.models.status
    has_ended = status.state == "ready" or isinstance(status.error, WorkerDied)
    return status.name if has_ended else ""


def facts_line(receipt: Mapping[str, Json], page: Page) -> str:
    """Return what a receipt says of an answer in one line; "" if it has no counts. It may be an imported one."""
    try:
        tokens, seconds = int(receipt["tokens"]["completion"]), float(receipt["seconds"]["decode"])
        # Prefill yields the first token, so the decode time is that of one token fewer.
        speed = f"{(tokens - 1) / seconds:.1f}" if seconds else ""
    except (KeyError, TypeError, ValueError, OverflowError):
        return ""
    parts = [page.tr("live_speed").format(tokens=tokens, speed=speed)] if speed else []
    parts += _first_token_part(receipt["seconds"], page) + _draft_part(receipt["tokens"], page)
    ends = {"length": "cut", "cancelled": "stopped"}
    parts += [page.tr(text) for reason, text in ends.items() if receipt.get("reason") == reason]
    model = receipt.get("model")
    if left_out := receipt.get("images_left_out"):
        parts.append(page.tr("images_left_out").format(count=left_out))
    return " · ".join([*parts, *([str(model.get("name"))] if isinstance(model, Mapping) else [])])


def _first_token_part(seconds: Mapping[str, Json], page: Page) -> list[str]:
    """Return when the first token came, nothing if that is not known, as of a stopped answer."""
    prompt = seconds.get("prompt")
    if isinstance(prompt, bool) or not isinstance(prompt, int | float) or not 0 < prompt < _LONGEST_SECONDS:
        return []
    return [page.tr("first_token_after").format(seconds=f"{prompt:.{1 if prompt < 10 else 0}f}")]


def _draft_part(tokens: Mapping[str, Json], page: Page) -> list[str]:
    """Return how many draft tokens were right; nothing if there were none."""
    drafted, accepted = tokens.get("drafted"), tokens.get("accepted")
    if not isinstance(drafted, int) or not isinstance(accepted, int) or drafted <= 0:
        return []
    return [page.tr("draft_tokens").format(drafted=drafted, accepted=accepted)]


def _attachment(file: Attachment) -> Json:
    """Return what the page shows of a file; `picture` is the hash by which it asks for one, "" for other files."""
    return {"name": file.name, "size": decimal_size(file.size), "picture": file.sha256 if file.kind == IMAGE else ""}


def _children(conversation: Conversation) -> dict[str, list[str]]:
    """Return the versions of what follows each message, in one pass."""
    children: dict[str, list[str]] = {}
    for message in conversation.messages.values():
        children.setdefault(message.parent, []).append(message.id)
    return children


def _shown(message: ChatMessage) -> Hashable:
    """Return everything that the page shows of a message itself."""
    return (message.content, message.reasoning, message.edited, message.incomplete, json.dumps(message.receipt))
