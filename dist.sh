#!/usr/bin/env bash
# Several processes on one machine: ./dist.sh SCRIPT OPTIONS... (--gpu 0,1 | --cpu N) [--max_restarts N]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
python="python"
[ -x "$here/.venv/bin/python" ] && [ -z "${VIRTUAL_ENV:-}" ] && python="$here/.venv/bin/python"
# -P: without it, a folder `utils` in the working directory would be imported instead of ours
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -P -m utils.dist "$@"
