"""The GPTQ and AWQ folders made for tests: their packing is exact, and their perplexity is close to the model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.perplexity_reference import perplexities
from tests.support.quantized_folders import KINDS, plain, quantized_folder, read_safetensors
from tests.support.quantized_packing import dequantized
from tests.support.shallow_model import LAYERS

MAX_PERPLEXITY_RATIO = {"gptq": 1.5, "gptq-act-order": 1.5, "gptq-8bit": 1.01, "awq": 1.35}
"""By kind, relative to the model; the kinds not listed have the weights of the first. Calibrated GPTQ is no better here
than rounding to the nearest, because it was calibrated on few texts of another kind (8,000 tokens; with 2,000 and the
usual damping the perplexity was 3.8 times the model's)."""
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
def test_unpacked_weights_equal_the_dequantized_copy(shallow_folder: Path, kind: str) -> None:
    """Tests compare engines with the copy; if it differed from the packed weights they would prove nothing."""
    folder = quantized_folder(shallow_folder, kind)
    packed = read_safetensors(folder / KINDS[kind].file)
    rounded = read_safetensors(plain(folder) / "model.safetensors")
    names = [name.removesuffix(".weight") for name in rounded if name.endswith("_proj.weight")]
    assert len(names) == LAYERS * 7
    for name in names:
        assert np.array_equal(dequantized(packed, name, KINDS[kind].method), rounded[f"{name}.weight"]), name


def test_quantization_raises_the_perplexity_within_limits(smollm2_folder: Path) -> None:
    """TEXT was not used for calibration. It is long because 21 tokens of a 135M model show little, but 400 do."""
    folders = {kind: plain(quantized_folder(smollm2_folder, kind)) for kind in MAX_PERPLEXITY_RATIO}
    original, *quantized = perplexities([smollm2_folder, *folders.values()], TEXT)
    ratios = {kind: perplexity / original for kind, perplexity in zip(folders, quantized, strict=True)}
    assert original < 35
    assert all(1 - 0.01 < ratios[kind] < limit for kind, limit in MAX_PERPLEXITY_RATIO.items()), ratios
