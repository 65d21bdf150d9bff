#!/bin/sh
# The kill -9 soak in its long form: tests/soak/run.sh [MINUTES] [SEED] [MORE...]
# Builds the optimised program, kills it for so long under load, and prints the account as a table and as one line of
# JSON. PROFILE=dev takes the debug build. MORE is for `cargo test --test soak -- run --help`.
set -eu
cd "$(dirname "$0")/../.."
minutes=${1:-15} seed=${2:-1}
[ $# -lt 1 ] || shift
[ $# -lt 1 ] || shift
if [ "${PROFILE:-release}" = release ]; then set -- --program target/release/oncemail "$@"; cargo build --release --bin oncemail; fi
exec cargo test --test soak -- run --minutes "$minutes" --seed "$seed" "$@"
