#!/usr/bin/env bash
# The compiler as run.sh has cargo call it: our own crates get the counters that libFuzzer steers by, as cargo-fuzz has it.
case " $* " in
    *" --crate-name oncemail "* | *" --crate-name oncemail_fuzz "*)
        exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
            -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
            -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0
        ;;
esac
exec "$@"
