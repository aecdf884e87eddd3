"""The form that an answer must have, as a tree for the worker, which alone can compile it for a model's tokens."""

from __future__ import annotations

from modules.core.events import Json

AnswerGrammar = Json
"""One node, a list of its kind and its parts:

* ["text", text]: this text. Special tokens of the model in it are meant as tokens.
* ["json", schema]: JSON that matches a JSON schema. What cannot be enforced of it is refused, or done without if the
  schema has the key LENIENT.
* ["until", text]: any text that does not contain `text`, and then `text`.
* ["rest"]: any text, to the end of the answer. As an alternative to nodes that begin with "until" nodes, it does not
  contain their texts.
* ["space"]: white space, or nothing.
* ["all", node, ...]: these nodes one after the other.
* ["any", node, ...]: one of these nodes.
* ["maybe", node]: the node, or nothing.
* ["many", node]: the node once or several times.
"""

LENIENT = "x-lenient"
"""Key of a schema, or of the schema of one of its properties, to be enforced as far as possible."""
