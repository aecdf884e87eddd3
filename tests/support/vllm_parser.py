"""Read command lines with vLLM's own parser: run with the Python of an environment that has vLLM.

Reads a JSON list of lists of words from stdin, each what follows `vllm serve PATH`, and prints the list of what vLLM
makes of them: the values that differ from the defaults, or its refusal.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from typing import Any


def main() -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    defaults = vars(parser.parse_args(["model"]))
    print(json.dumps([_read(parser, defaults, validate_parsed_serve_args, words) for words in json.load(sys.stdin)]))


def _read(parser: argparse.ArgumentParser, defaults: dict[str, Any], validate: Any, words: list[str]) -> Any:
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parsed = parser.parse_args(["model", *words])
            validate(parsed)
    except (SystemExit, TypeError, ValueError) as error:
        return f"{error} {errors.getvalue()}"
    return {key: value for key, value in vars(parsed).items() if value != defaults[key]}


if __name__ == "__main__":
    main()
