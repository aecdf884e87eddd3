"""The form that an answer must have, as a tree for the worker, which alone can compile it for a model's tokens."""

from __future__ import annotations

from modules.core.events import Json

AnswerGrammar = Json
"""One node, a list of its kind and its parts:

* ["text", text]: this text. Special tokens of the model in it are meant as tokens.
* ["json", schema]: JSON that matches a JSON schema.
* ["until", text]: any text that does not contain `text`, and then `text`.
* ["space"]: white space, or nothing.
* ["all", node, ...]: these nodes one after the other.
* ["any", node, ...]: one of these nodes.
* ["maybe", node]: the node, or nothing.
* ["many", node]: the node once or several times.
"""
