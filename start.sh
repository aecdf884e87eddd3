#!/usr/bin/env bash
# Set up and start the server: ./start.sh [flags of server.py; --help lists them].
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # `sh start.sh` works too
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")"
. scripts/find_python.sh
exec "$python" scripts/set_up.py start "$@"
