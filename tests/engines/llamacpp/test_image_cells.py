"""Entries of images among tokens: chunks are never divided, and positions are counted apart from cells."""

from __future__ import annotations

from array import array

from modules.engines.llamacpp.image_cells import has_images, positions, text_length, text_tokens, whole_chunks

TOKENS = array("i", [7, 8, -2, -3, -3, -2, -3, -3, 9, -4, 5])
"""Two texts around the same chunk twice, then a chunk of one cell."""


def test_a_prefix_never_ends_inside_a_chunk() -> None:
    lengths = [whole_chunks(TOKENS, length) for length in range(len(TOKENS) + 1)]
    assert lengths == [0, 1, 2, 2, 2, 5, 5, 5, 8, 9, 10, 11]


def test_text_goes_up_to_the_next_image() -> None:
    assert [text_length(TOKENS, begin) for begin in (0, 1, 2, 8, 9, 10, 11)] == [2, 1, 0, 1, 0, 1, 0]
    assert text_tokens(TOKENS).tolist() == [7, 8, 9, 5]
    assert has_images(TOKENS) and not has_images(array("i", [0, 1])) and not has_images(array("i"))


def test_positions_are_fewer_than_cells_where_chunks_have_a_surplus() -> None:
    assert positions(TOKENS, 8, {}) == 8
    assert [positions(TOKENS, length, {-2: 1}) for length in (0, 2, 5, 8, 11)] == [0, 2, 4, 6, 9]
