"""Downloads a model or a LoRA: `python download-model.py user/model`. Its flags: `python download-model.py --help`."""

from __future__ import annotations

import sys

from modules.cli.download import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
