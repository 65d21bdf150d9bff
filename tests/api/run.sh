#!/usr/bin/env bash
# The real HTTP API against its own description: tests/api/run.sh [PROGRAM]  (default: target/debug/oncemail).
#
# Prepares schemathesis under target/api, then lets check.py start a relay with mail that waits, is held and is over, and
# judge every answer by the openapi.json that the relay serves. Needs python3. Takes about a minute and a half.
set -euo pipefail
cd "$(dirname "$0")/../.."

program=${1:-target/debug/oncemail}
place=${CARGO_TARGET_DIR:-target}/api
here=tests/api

command -v python3 >/dev/null || { echo "API tests: python3 is missing" >&2; exit 1; }
[[ -x $program ]] || { echo "API tests: $program is missing; build it first" >&2; exit 1; }
mkdir -p "$place/run"
program=$(realpath "$program")
place=$(realpath "$place")

# Installed once, again only when the list changes.
if ! cmp --silent "$here/requirements.txt" "$place/requirements.txt"; then
    python3 -m venv --clear "$place/venv"
    "$place/venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$place/requirements.txt"
fi

home=$(mktemp --directory "$place/run/XXXXXX")
"$place/venv/bin/python" "$here/check.py" "$program" "$home" "$place/venv/bin/schemathesis"
