#!/usr/bin/env bash
# The dashboard in a real Chromium: tests/dashboard/run.sh [PROGRAM] [--update] [NAME]  (default: target/debug/oncemail).
#
# Clicks all that can be clicked over the real relay (steering.mjs), and over an invented one (mock.mjs) for the states
# that are rare. With --update the pictures of docs/images/ are taken anew, which takes some minutes more. With NAME only
# the tests whose name has it are run. Needs node, npm and chromium; root gets a missing chromium by apt.
set -euo pipefail
cd "$(dirname "$0")/../.."

program=target/debug/oncemail
if [[ -f ${1:-} ]]; then
    program=$1
    shift
fi
[[ -x $program ]] || { echo "dashboard tests: $program is missing; build it first" >&2; exit 1; }

here=tests/dashboard
place=${CARGO_TARGET_DIR:-target}/ci/dashboard
vendored=src/admin/dashboard/assets

if ! command -v chromium >/dev/null && [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    apt-get update --quiet=2
    apt-get install --quiet=2 --yes --no-install-recommends chromium fonts-noto-core >/dev/null
fi
for need in node npm chromium sha256sum; do
    command -v "$need" >/dev/null || { echo "dashboard tests: $need is missing" >&2; exit 1; }
done

# What others wrote is as they wrote it.
sums=$(sed --quiet 's/^| `\([^`]*\)` .* `\([0-9a-f]\{64\}\)` |$/\2  \1/p' "$vendored/VENDORED.md")
[[ -n $sums ]] && (cd "$vendored" && sha256sum --check --quiet <<<"$sums")

# Installed once, again only when the list changes.
mkdir -p "$place"
if ! cmp --silent "$here/package.json" "$place/installed.json"; then
    cp "$here/package.json" "$place/package.json"
    npm install --prefix "$place" --no-audit --no-fund --loglevel error
    cp "$here/package.json" "$place/installed.json"
fi

PROGRAM=$(realpath "$program") PLACE=$(realpath "$place") CHROMIUM=$(command -v chromium) node "$here/check.mjs" "$@"
