"""The command line program `llm` against our server: prompts, streams, conversations, schemas, tools.

    .venv/bin/python benchmarks/clients/llm_client.py --bodies

The first run makes an environment of its own. `llm` knows the server by a file extra-openai-models.yaml.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from environments import run_in_environment
from report import Run, client_run, expect

if __name__ == "__main__":
    run_in_environment("llm", "llm==0.36")

MODEL_FILE = """\
- model_id: local
  model_name: {model}
  api_base: "{url}/v1"
  supports_schema: true
  supports_tools: true
"""
FUNCTION = '''
def get_weather(city: str) -> str:
    """Return the weather of a city."""
    return f"Sunny in {city}."
'''
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
SECONDS = 250
SHORT = ("-o", "temperature", "0", "-o", "max_tokens", "120")


def run_llm(folder: Path, *arguments: str) -> str:
    """Return what `llm` prints. Raises AssertionError with its error if it fails."""
    environment = {**os.environ, "LLM_USER_PATH": str(folder), "OPENAI_API_KEY": "none"}
    program = Path(sys.prefix) / "bin" / "llm"
    done = subprocess.run(
        [str(program), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    expect(done.returncode == 0, done.stderr[-500:])
    return done.stdout.strip()


def check(run: Run, folder: Path) -> None:
    def ask(*arguments: str) -> str:
        answer = run_llm(folder, "prompt", "-m", "local", *SHORT, *arguments)
        expect(answer, answer)
        return answer

    def schema() -> str:
        answer = ask("--schema", json.dumps(CITY), "Name the capital of France.", "--no-stream")
        expect(set(json.loads(answer)) == {"city"}, answer)
        return answer

    def tools() -> str:
        answer = ask("--functions", FUNCTION, "--td", "How is the weather in Rome?")
        return answer  # a small model may answer without a call

    run.check("prompt, streamed", lambda: ask("Name the capital of France."))
    run.check("prompt, whole", lambda: ask("--no-stream", "Name the capital of France."))
    run.check("system prompt", lambda: ask("-s", "Answer in English.", "Name the capital of France."))
    run.check("a conversation continued", lambda: ask("-c", "And of Spain?"))
    run.check("--schema", schema)
    run.check("--functions (any answer)", tools)


def main() -> None:
    with client_run(__doc__, ("llm", "openai")) as run, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "extra-openai-models.yaml").write_text(MODEL_FILE.format(model=run.model, url=run.url))
        check(run, folder)


if __name__ == "__main__":
    main()
