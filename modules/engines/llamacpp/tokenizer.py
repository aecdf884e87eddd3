"""Text to tokens and tokens to text as requests ask for it, by the vocabulary of a GGUF model."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from modules.core.events import Json
from modules.core.image_marks import split_at_marks
from modules.engines.engine_protocol import Operations
from modules.engines.llamacpp.vocabulary import Vocabulary
from modules.engines.token_ids import token_pieces


class Tokenizer:
    """Answers the questions of `engine_protocol.Operations`. Any thread may use it, also during a decode."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    @property
    def questions(self) -> Operations:
        return {"encode": self.encode, "decode": self.decode, "count": self.count, "pieces": self.pieces}

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Return the tokens of `text`, with BOS in front if the model wants it and `text` does not begin with it."""
        return self._tokenize(text, add_special).tolist()

    def _tokenize(self, text: str, add_special: bool = True) -> array[int]:
        return self._vocabulary.tokenize(text, add_special and not self._has_bos(text))

    def _has_bos(self, text: str) -> bool:
        bos = self._vocabulary.special_text(self._vocabulary.bos)
        return self._vocabulary.adds_bos and bool(bos) and text.startswith(bos)

    def encode_with_images(self, text: str, images: Sequence[Sequence[int]]) -> list[int]:
        """Return the tokens of a text in which marks stand for `images`, of which each has tokens of its own.

        The texts between the marks are tokenized one by one, as mtmd does. A text follows the last image, so that there
        is a token whose logits the first one of the answer is sampled from.
        """
        tokens = [self._vocabulary.bos] if self._vocabulary.adds_bos and not self._has_bos(text) else []
        pieces = split_at_marks(text)
        for piece in pieces if pieces and isinstance(pieces[-1], str) else [*pieces, "\n"]:
            tokens.extend(self._vocabulary.tokenize(piece, False) if isinstance(piece, str) else images[piece])
        return tokens

    def count(self, text: str) -> int:
        return len(self._tokenize(text))

    def decode(self, tokens: list[int]) -> str:
        """Return the text of `tokens`, special ones by their names. Raises OptionError for an invalid token id."""
        for token in tokens:
            self._vocabulary.check_token("tokens", token)
        return b"".join(self._vocabulary.piece(token, special=True) for token in tokens).decode("utf-8", "replace")

    def pieces(self, text: str, add_special: bool = True) -> list[list[Json]]:
        """Return the tokens of `text`: see `engine_protocol.Operations`."""
        vocabulary = self._vocabulary
        tokens = self.encode(text, add_special)
        return token_pieces((token, vocabulary.piece(token, True), vocabulary.is_control(token)) for token in tokens)
