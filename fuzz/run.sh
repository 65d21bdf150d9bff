#!/usr/bin/env bash
# Fuzzes the product: fuzz/run.sh [SECONDS] [TARGET…]
#
#   fuzz/run.sh                    every target for a minute, two at a time: what CI runs
#   fuzz/run.sh 3600 recovery      one target for an hour
#   fuzz/run.sh again TARGET FILE  one input again, with the place where it panics
#   fuzz/run.sh lint               format and clippy of the targets, in the build that they run from
#   fuzz/run.sh keep               the smallest inputs that reach all that was ever reached become fuzz/corpus
#
# ONCEMAIL_FUZZ_SEED is where chance begins (1; 0 is another one each time), ONCEMAIL_FUZZ_JOBS how many run at a time
# (2). Exit code 1: a target has crashed; the command that does it again is printed.
#
# These are targets of cargo-fuzz, and `cargo fuzz run -s none TARGET` runs them too. It is not needed: what it adds to
# the compiler's options is in rustc.sh and works with a stable compiler, libFuzzer itself comes with the crate. There is
# no address sanitizer: our code has no `unsafe`. Debug assertions and overflow checks are on. The crates that we depend
# on have no counters in them: they are the ones that the tests were built with.
set -euo pipefail
cd "$(dirname "$0")"

target_dir=${CARGO_TARGET_DIR:-$PWD/../target}
work=$target_dir/fuzz
programs=$target_dir/debug
jobs=${ONCEMAIL_FUZZ_JOBS:-2}
seed=${ONCEMAIL_FUZZ_SEED:-1}
all=(session data command header fingerprint recovery history reply config proxy_protocol address)
mkdir -p "$work/logs"

build() {
    RUSTC_WRAPPER=$PWD/rustc.sh cargo build --locked --bins --target-dir "$target_dir"
}

# `cargo clippy` would check all that the targets depend on once more; its compiler in the place of rustc, for this
# package alone, builds as well.
lint() {
    cargo fmt --check
    RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings build
}

# Longer inputs find nothing that shorter ones do not, and take longer.
max_len() {
    case $1 in
        address) echo 400 ;;
        command) echo 1500 ;;
        proxy_protocol) echo 300 ;;
        history) echo 600 ;;
        *) echo 4096 ;;
    esac
}

# One target, in the background; its log has the figures.
fuzz() {
    local target=$1 options=(-max_total_time="$seconds" -seed="$seed")
    [[ -f dictionaries/$target.dict ]] && options+=(-dict="dictionaries/$target.dict")
    mkdir -p "$work/corpus/$target" "artifacts/$target" "corpus/$target"
    "$programs/$target" "${options[@]}" -max_len="$(max_len "$target")" -rss_limit_mb=1024 -timeout=10 \
        -print_final_stats=1 -artifact_prefix="artifacts/$target/" \
        "$work/corpus/$target" "corpus/$target" "$places/seeds/$target" >"$work/logs/$target.log" 2>&1
}

figure() { sed -n "s/^stat::$1: *//p" "$work/logs/$2.log"; }

# A row of the table, and what to do about a crash.
report() {
    local target=$1 code=$2 log=$work/logs/$1.log crash=-
    ((code == 0)) || crash=$code
    printf '%-15s %12s %9s %9s %9s %8s\n' "$target" "$(figure number_of_executed_units "$target")" \
        "$(figure average_exec_per_sec "$target")" "$(grep -o 'cov: [0-9]*' "$log" | tail -1 | cut -c6-)" \
        "$(figure new_units_added "$target")" "$crash"
    ((code == 0)) && return
    grep -E -A8 'panicked at|ERROR: libFuzzer|SUMMARY' "$log" | grep -vE '^ +#|^NOTE' | head -20 | sed 's/^/    /' || true
    sed -n "s|.*Test unit written to \(.*\)|    fuzz/run.sh again $target fuzz/\1|p" "$log"
}

fuzz_all() {
    local code failed=0 target
    "./seeds.py" "$places/seeds"
    printf '%-15s %12s %9s %9s %9s %8s\n' target executions per_s coverage new_units crash
    run_one() {
        local code=0
        fuzz "$1" || code=$?
        echo "$code" >"$places/$1.code"
    }
    for target in "$@"; do
        while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
        run_one "$target" &
    done
    wait
    for target in "$@"; do
        code=$(<"$places/$target.code")
        report "$target" "$code"
        ((code == 0)) || failed=1
    done
    return $failed
}

# What reaches all that the seeds do not, smallest first, a few kilobytes each target.
keep() {
    local target
    "./seeds.py" "$places/seeds"
    for target in "${all[@]}"; do
        mkdir -p "$places/kept/$target" "$work/corpus/$target"
        "$programs/$target" -merge=1 "$places/kept/$target" "corpus/$target" "$work/corpus/$target" \
            >"$work/logs/keep-$target.log" 2>&1
        rm -rf "corpus/$target"
        mkdir -p "corpus/$target"
        # Large ones are slow, and are found again from the small ones.
        find "$places/kept/$target" -type f -size -1025c -printf '%s %p\n' | sort -n |
            awk -v most="${ONCEMAIL_FUZZ_KEEP:-8000}" '{ sum += $1; if (sum <= most) print $2 }' |
            xargs -r cp -t "corpus/$target"
        echo "$target: $(find "corpus/$target" -type f | wc -l) inputs, $(du -bs "corpus/$target" | cut -f1) octets"
    done
}

# Everything that is only for this run.
places=$(mktemp -d)
export TMPDIR=$places
trap 'rm -rf "$places"' EXIT

case ${1:-} in
    lint)
        lint
        ;;
    again)
        build
        RUST_BACKTRACE=1 "$programs/$2" "$OLDPWD/$3"
        ;;
    keep)
        build
        keep
        ;;
    *)
        seconds=60
        if [[ ${1:-} =~ ^[0-9]+$ ]]; then
            seconds=$1
            shift
        fi
        build
        if (($#)); then fuzz_all "$@"; else fuzz_all "${all[@]}"; fi
        ;;
esac
