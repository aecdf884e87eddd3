#!/usr/bin/env bash
# Measure the line coverage of modules/, child processes included; by hand, since tests take about twice as long:
#   scripts/coverage.sh                        all tests, and a line for each file
#   scripts/coverage.sh -m unit tests/chat     these tests; other arguments of pytest as well
#   ROOMS='chat system' scripts/coverage.sh …  the lines of these rooms
# Run ./test.sh once before. Processes that others kill, or that run isolated from the environment (`python -I`), report
# nothing.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")/.."

folder=cache/coverage
python=.venv/bin/python
mkdir -p "$folder"
rm -f "$folder"/data* # of an earlier run
"$python" -m pip install --quiet coverage==7.17.5

# A file of settings outside pyproject.toml, so that nothing else depends on the package.
cat >"$folder/settings" <<END
[run]
source = modules
data_file = $PWD/$folder/data
parallel = true
sigterm = true
patch = subprocess, _exit
END

# Workers end by killing their process group; have them save first.
cat >"$folder/sitecustomize.py" <<'END'
import os

import coverage

kill_group = os.killpg


def save_and_kill_group(group, number):
    if group == 0 and (measurement := coverage.Coverage.current()) is not None:
        measurement.stop()
        measurement.save()
    kill_group(group, number)


os.killpg = save_and_kill_group
END

export PYTHONPATH="$PWD/$folder${PYTHONPATH:+:$PYTHONPATH}"
export GRADIO_ANALYTICS_ENABLED=False HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=
status=0
"$python" -m coverage run --rcfile="$folder/settings" -m pytest "$@" || status=$?
"$python" -m coverage combine --quiet --rcfile="$folder/settings"
included=''
for room in ${ROOMS:-}; do included+="${included:+,}modules/$room/*"; done
"$python" -m coverage report --rcfile="$folder/settings" --skip-empty ${included:+--include="$included"}
exit "$status"
