"""Download a model or a LoRA: `python download-model.py user/model`. `--help` lists the flags."""

from __future__ import annotations

import sys

from modules.cli.download import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
