"""A stand-in for `modules.trainer` and `modules.engines.training.preview_process` that only reports an error."""

from __future__ import annotations

import json

from modules.core.training_errors import TrainingFailed


def main() -> None:
    print(json.dumps({"event": "failed", **TrainingFailed("as told").to_json()}), flush=True)


if __name__ == "__main__":
    main()
