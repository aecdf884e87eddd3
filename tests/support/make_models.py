"""Create all models that tests share, before the tests run: `python -m tests.support.make_models`.

They are kept for later runs. The first run takes some minutes, as does the first load of a GPTQ or AWQ folder by
gptqmodel, which compiles kernels. Without this, the first test that needs a model would create it within its own time
limit.
"""

from __future__ import annotations

from contextlib import closing

from modules.loaders.availability import overlay_of
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import SMOLLM2, TRANSFORMERS, load
from tests.support.exl2_folder import INSTALLED, exl2_folder
from tests.support.hf_folder import transformers_folder
from tests.support.quantized_folders import KINDS, quantized_folder
from tests.support.shallow_model import shallow_folder, shallow_loras
from tests.support.tiny_model import tiny_gguf
from tests.support.trained_loras import trained_loras


def main() -> None:
    transformers_folder(tiny_gguf(SMOLLM2))
    folder = transformers_folder(SMOLLM2)
    shallow = shallow_folder(folder)
    shallow_loras(trained_loras(folder))
    for kind in KINDS:
        quantized_folder(folder, kind)
        quantized_folder(shallow, kind)
    if INSTALLED:
        exl2_folder(folder)
        exl2_folder(shallow)
    for kind in ("gptq", "awq"):
        overlay = overlay_of(TRANSFORMERS, kind)
        with closing(WorkerProcess(overlay.folder if overlay is not None else None)) as worker:
            load(worker, quantized_folder(folder, kind), TRANSFORMERS)


if __name__ == "__main__":
    main()
