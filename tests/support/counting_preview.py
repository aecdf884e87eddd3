"""A stand-in for `modules.engines.training.preview_process` whose previews have the id of their process."""

from __future__ import annotations

import json
import os


def main() -> None:
    print(json.dumps({"event": "done", "preview": {"pid": os.getpid()}}), flush=True)


if __name__ == "__main__":
    main()
