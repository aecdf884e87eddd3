"""Every load option, collected from the tables of the loader families.

Keys, flags and ranges are those of the original web UI, except:

* `n_ctx`, `max_seq_len` and `num_experts_per_token` default to 0, which means the model's own value. The original's
  2048 and 2 were wrong for most models. The full context needs the memory of its whole KV cache, and the help says so.
* `flash_attn` is on: on a CPU nothing else speeds up long contexts as much. `--flash_attn=false` turns it off.
* Ranges are wider where the files of published models exceed the original's: contexts of millions of tokens, linear
  scaling by 25, a rotary base of 11158839.92.
* Memory sizes are texts (`10`, `9.5GiB`, `8000MiB`); a plain number is in GiB, as in the original's flags.

The rows of `loaders/registry.py` refer to these tables: a new row in a table is a new option of the family's loaders.
"""

from __future__ import annotations

from collections.abc import Mapping

from modules.options import load_shared as shared
from modules.options.load_exllamav2 import EXLLAMAV2
from modules.options.load_gptq_awq import AUTOAWQ, AUTOGPTQ
from modules.options.load_llamacpp import LLAMACPP, LLAMACPP_HF
from modules.options.load_remote import REMOTE
from modules.options.load_transformers import TRANSFORMERS
from modules.options.load_vllm import VLLM
from modules.options.option import Option

# Shared options come first, so that they stand in the same position for every loader.
_FIRST = (
    *(shared.CPU, *shared.TOKENIZER, shared.ALPHA_VALUE, shared.ROPE_FREQ_BASE, shared.COMPRESS_POS_EMB),
    *(shared.CFG_CACHE, shared.CACHE_8BIT, shared.CACHE_4BIT),
)
_FAMILIES = (_FIRST, LLAMACPP, LLAMACPP_HF, TRANSFORMERS, EXLLAMAV2, AUTOGPTQ, AUTOAWQ, VLLM, REMOTE)

OPTIONS: Mapping[str, Option] = {option.key: option for family in _FAMILIES for option in family}
"""Every load option by its key, in the order in which the form, `--help` and the documentation list them."""
