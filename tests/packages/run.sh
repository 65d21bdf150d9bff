#!/bin/sh
# Checks docker/ and packaging/ against a binary: tests/packages/run.sh [BINARY].
set -eu
cd "$(dirname "$0")/../.."

venv=target/packages-venv
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" --quiet install PyYAML kubernetes-validate
fi
PATH="$PWD/$venv/bin:$PATH" python tests/packages/check.py "${1:-target/debug/oncemail}"
