#!/usr/bin/env bash
# Sets up what the tests need, then checks everything:
#   ./test.sh                  ruff, mypy and all tests, in at most 20 minutes on two cores
#   ./test.sh quick            ruff and the unit tests, in at most 90 seconds
#   ./test.sh <pytest flags>   pytest alone, with these
# All parts run; the exit status is that of the first that failed.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")"
. scripts/environment.sh

first_failure=0
part() {
    local status=0
    "$@" || status=$?
    if ((first_failure == 0)); then first_failure=$status; fi
}

python() {
    GRADIO_ANALYTICS_ENABLED=False HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 .venv/bin/python "$@"
}

apt_install() {
    local -a root=()
    if ((EUID != 0)); then
        root=(sudo)
        # Nobody would see the question for the password.
        if [[ ! -t 0 ]]; then root+=(-n); fi
    fi
    export DEBIAN_FRONTEND=noninteractive
    ${root[@]+"${root[@]}"} apt-get update && ${root[@]+"${root[@]}"} apt-get install -y --no-install-recommends "$@"
}

# The compiler, the browser and the fonts that Debian has; what is there already is left alone.
# A subshell: without them everything but the page tests can still run.
ensure_system_packages() (
    local -a missing=()
    if ! has_compiler && ! has_package llama_cpp_python; then missing+=(g++); fi
    if ! command -v chromium >/dev/null; then missing+=(chromium fonts-noto-cjk fonts-noto-color-emoji); fi
    if ((${#missing[@]} == 0)); then return; fi
    step "正在用 apt 安装 ${missing[*]}……" "Installing ${missing[*]} with apt ..." apt_install "${missing[@]}" && return
    fail "测试需要 ${missing[*]}，但 apt-get 未能安装它们（需要 root 或 sudo）。请手动安装；详情见 $PWD/$LOG" \
        "The tests need ${missing[*]}, which apt-get could not install (it takes root or sudo). Install them by hand; details are in $PWD/$LOG"
)

# `quick` opens no browser.
if [[ ${1:-} != quick ]]; then part ensure_system_packages; fi
ensure_requirements requirements.txt
ensure_requirements requirements-test.txt -c requirements.txt
ensure_overlay Transformers
ensure_overlay AutoGPTQ # and AutoAWQ
# Without a GPU only somebody with kernels at hand may install it: those of the tests are a stand-in.
PYTHONPATH=tests/exllamav2_standin ensure_overlay ExLlamav2
ensure_demo_model

# One process for each core; see tests/stages.py.
parallel() {
    python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder "$@"
}

if (($# == 0)); then
    part python -m ruff check .
    part python -m ruff format --check .
    part python -m mypy
    part parallel
elif [[ $1 == quick ]]; then
    part python -m ruff check .
    part parallel -m unit "${@:2}"
else
    part python -m pytest "$@"
fi
exit "$first_failure"
