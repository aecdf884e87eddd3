"""A server of canned answers for the kinds of servers, without a socket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modules.core.events import Json
from modules.core.server_errors import ServerNotUnderstood, ServerRefused
from modules.engines.served.server_kind import ASK_SECONDS, Answer

_NO_OBJECT = {"en": "no object", "zh": "不是对象"}
Canned = Json | Callable[[Json], Json]


class CannedServer:
    """Answers short requests by their paths; what is not among `answers` is refused with 404.

    An answer is the body, or a function of the request's body that returns it; None refuses. `asked` has the requests.
    """

    def __init__(self, answers: Mapping[str, Canned]) -> None:
        self.answers = dict(answers)
        self.asked: list[tuple[str, Json]] = []

    def __call__(self, path: str, body: Json = None, *, seconds: float = ASK_SECONDS) -> Answer:
        self.asked.append((path, body))
        canned: Any = self.answers.get(path)
        value = canned(body) if callable(canned) else canned
        if value is None:
            return Answer(404, {"detail": "Not Found"}, ServerRefused("http://server", 404, "Not Found"))
        return Answer(
            200, value, None if isinstance(value, dict) else ServerNotUnderstood("http://server", path, _NO_OBJECT)
        )


def words_tokenizer(bos: str = "") -> dict[str, Canned]:
    """Return the answers of vLLM's /tokenize and /detokenize with one token for each character, and a BOS token."""

    def tokenize(body: Json) -> Json:
        if "messages" in body:
            text = chat_text(body["messages"], body["add_generation_prompt"])
            return {"tokens": [ord(character) for character in text]}
        ids = [ord(character) for character in body["prompt"]]
        first = [1] if bos and body["add_special_tokens"] else []
        names = {"token_strs": [*(bos for _ in first), *body["prompt"]]} if body.get("return_token_strs") else {}
        return {"tokens": [*first, *ids]} | names

    def detokenize(body: Json) -> Json:
        return {"prompt": "".join(bos if token == 1 else chr(token) for token in body["tokens"])}

    return {"/tokenize": tokenize, "/detokenize": detokenize}


def chat_text(messages: Json, generation: bool) -> str:
    """Render a conversation as the template of many models does, with a default system message."""
    listed = [*([] if messages[0]["role"] == "system" else [{"role": "system", "content": "Help."}]), *messages]
    text = "".join(f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in listed)
    return text + ("<|im_start|>assistant\n" if generation else "")
