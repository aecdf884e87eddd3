#!/usr/bin/env bash
# Set up what the tests need, then run the checks:
#   ./test.sh                  ruff, mypy and all tests, in at most 20 minutes on two cores
#   ./test.sh quick            ruff and the unit tests, in at most 90 seconds
#   ./test.sh <pytest flags>   pytest alone, with these
# All parts run even if one fails; the exit status is that of the first failure.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")"
. scripts/find_python.sh

# Keep bytecode whatever the environment says: without it, every process takes a second longer to start.
export PYTHONDONTWRITEBYTECODE=

first_failure=0
part() {
    local status=0
    "$@" || status=$?
    if ((first_failure == 0)); then first_failure=$status; fi
}

python() {
    GRADIO_ANALYTICS_ENABLED=False HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 .venv/bin/python "$@"
}

# A failed set-up ends the run, except for the system packages: only tests that open a page need them.
if [[ ${1:-} != quick ]]; then part "$python" scripts/system_packages.py; fi
"$python" scripts/set_up.py tests
python server.py --install llama.cpp
python server.py --install rpc
python server.py --install Transformers
python server.py --install AutoGPTQ # and AutoAWQ
# Without a GPU it can be installed only if its kernels exist: the tests have stand-ins for them.
PYTHONPATH=tests/support/exllamav2_standin python server.py --install ExLlamav2
python scripts/demo_model.py
if [[ ${1:-} != quick ]]; then python -m tests.support.make_models; fi

if (($# == 0)); then
    part python -m ruff check .
    part python -m ruff format --check .
    part python -m mypy
    # One process per core; see tests/support/stages.py.
    part python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
elif [[ $1 == quick ]]; then
    part python -m ruff check .
    # Three processes on two cores, because unit tests mostly wait for sockets and child processes.
    part python -m pytest -m unit --numprocesses 3 --dist loadfile --no-loadscope-reorder "${@:2}"
else
    part python -m pytest "$@"
fi
exit "$first_failure"
