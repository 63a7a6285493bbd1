#!/bin/sh
# Runs pytest on the given files. Usage: run.sh PYTHON FILE…
set -eu
python=$1
shift
if [ ! -x "$python" ]; then
  echo "e2e: $python is missing; 'make test' prepares it (or: make .venv/ready)" >&2
  exit 1
fi
exec "$python" -m pytest "$@"
