"""Let transformers compile its patterns of weight names, of which it makes hundreds before the first model is loaded.

Imported once by the process that `tests.support.forked` forks, instead of half a second in each test.
"""

from __future__ import annotations

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

get_checkpoint_conversion_mapping("llama")
