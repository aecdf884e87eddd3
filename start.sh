#!/usr/bin/env bash
# From a fresh machine to a running page: ./start.sh [any flag of server.py; --help lists them].
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # `sh start.sh` works too
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")"
. scripts/find_python.sh
exec "$python" scripts/set_up.py start "$@"
