#!/bin/sh
# Checks docker/ and packaging/ against a binary: tests/packages/run.sh [BINARY].
set -eu
cd "$(dirname "$0")/../.."

venv=target/packages-venv
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" --quiet install PyYAML kubernetes-validate
fi
binary=${1:-target/debug/oncemail}
PATH="$PWD/$venv/bin:$PATH" python tests/packages/check.py "$binary"
python3 tests/packages/root.py "$binary"
python3 tests/packages/syscalls.py "$binary"
