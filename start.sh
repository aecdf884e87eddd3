#!/usr/bin/env bash
# From a fresh machine to a running page: ./start.sh [--no-demo] [any flag of server.py; --help lists them].
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # `sh start.sh` works too
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")"
. scripts/environment.sh

demo=yes
flags=()
for word in "$@"; do
    case $word in
        --no-demo | --no_demo)
            demo=no
            continue
            ;;
        # Another folder of models is the user's own affair; help needs no model.
        --model-dir | --model_dir | --model-dir=* | --model_dir=* | --help | -h) demo=no ;;
    esac
    flags+=("$word")
done
if grep -Eq '^[^#]*--model[-_]dir' CMD_FLAGS.txt 2>/dev/null; then demo=no; fi

ensure_requirements requirements.txt
# The page can fetch a model too, so being without the demo is no reason not to start.
if [[ $demo == yes ]]; then (ensure_demo_model) || true; fi
exec .venv/bin/python server.py ${flags[@]+"${flags[@]}"}
