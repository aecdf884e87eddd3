"""The tests' own GPTQ and AWQ folders: packed as their weights were rounded, and not much worse than the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.perplexity_reference import perplexities
from tests.support.quantised_folders import KINDS, plain, quantised_folder, read_safetensors
from tests.support.quantised_packing import dequantised
from tests.support.shallow_model import LAYERS

WORSE = {"gptq": 1.5, "gptq-act-order": 1.5, "gptq-8bit": 1.01, "awq": 1.35}
"""At most, of the perplexity, by kind: the other kinds have the weights of the first. GPTQ proper does no better here
than rounding to the nearest, for it was calibrated on few texts of another kind (8,000 tokens; with 2,000 it was 3.8
times as bad as the model, at the usual damping)."""
TEXT = """The lighthouse at the end of the bay had been dark for eleven years when Martha Lindqvist bought it. She was a
retired teacher of geography, and her sister in the city thought that she had gone mad. The roof leaked, the stairs were
rusted through in three places, and the only road to it lay under water twice a day. But Martha had always wanted to
live where the land stops, and the price was lower than that of a parking space.

She began with the lamp room. For two weeks she scraped old paint from the window frames and carried broken glass down
the hundred and twelve steps in a bucket. Fishermen who passed in their boats saw a small figure with a red scarf moving
behind the panes, and one of them, a man called Olaf, came ashore one evening to ask whether she needed help. She said
that she did not, and then that she did. He brought a ladder the next day, and on the day after that his two sons.

By autumn the tower was white again. The light itself could not be repaired, because nobody makes the parts any more, so
they hung an ordinary ship's lantern in its place. It is weak, and on foggy nights you cannot see it from the harbour.
Nevertheless the boats look for it when they come home. The children of the village say that as long as it burns nobody
will drown, and although their parents smile at this, not one of them has ever asked Martha to put it out.

In winter the storms are so loud that she sleeps in the kitchen, beside the stove. She reads, writes long letters, and
keeps a record of the weather: the temperature, the direction of the wind and the height of the waves. The university
has asked for a copy. When people want to know whether she is lonely, she answers that she was lonely in the city.
"""


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_packed_is_what_was_rounded(shallow_folder: Path, kind: str) -> None:
    """Of the tests' own folders: otherwise the two could agree on the wrong numbers."""
    folder = quantised_folder(shallow_folder, kind)
    packed = read_safetensors(folder / KINDS[kind].file)
    rounded = read_safetensors(plain(folder) / "model.safetensors")
    names = [name.removesuffix(".weight") for name in rounded if name.endswith("_proj.weight")]
    assert len(names) == LAYERS * 7
    for name in names:
        assert np.array_equal(dequantised(packed, name, KINDS[kind].method), rounded[f"{name}.weight"]), name


def test_each_is_as_good_as_its_bits_allow(smollm2_folder: Path) -> None:
    """Measured on a story that no calibration has seen: 21 tokens of a 135M model tell little, 400 do."""
    folders = {kind: plain(quantised_folder(smollm2_folder, kind)) for kind in WORSE}
    whole, *found = perplexities([smollm2_folder, *folders.values()], TEXT)
    worse = {kind: each / whole for kind, each in zip(folders, found, strict=True)}
    assert whole < 35
    assert all(1 - 0.01 < worse[kind] < most for kind, most in WORSE.items()), worse
