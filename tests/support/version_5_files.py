"""Have packages from before Transformers 5 read the model folders of the tests, in scripts that use them directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_in_transformers_4() -> None:
    """Translate every config.json that Transformers 4.51 reads in this process."""
    import transformers

    from modules.engines.legacy.config_json import legacy_config

    base: Any = transformers.PretrainedConfig
    read = base.__dict__["_dict_from_json_file"]
    base._dict_from_json_file = classmethod(lambda cls, file: legacy_config(read.__get__(None, cls)(file)))


def exllamav2_config(folder: Path | str) -> Any:
    """Return ExLlamaV2's configuration of the model in `folder`."""
    from exllamav2 import ExLlamaV2Config

    from modules.engines.exllamav2.arguments import config_changes
    from modules.engines.exllamav2.build import reading_config
    from modules.engines.hf.arguments import ModelConfig

    with reading_config(config_changes(ModelConfig(Path(folder)))):
        return ExLlamaV2Config(str(folder))
