#!/bin/sh
# Fills a small file system below a relay: a tmpfs of 64 MB in a mount namespace of its own, gone with the process.
# Root, or a system that lets users have namespaces. More words are for `load scenario`, such as --binary FILE. A short look
# without a release build: PROFILE=dev benches/diskfull.sh --binary target/debug/oncemail --for 2s
set -eu
cd "$(dirname "$0")/.."
disk=$(mktemp -d "${TMPDIR:-/tmp}/oncemail-small-disk.XXXXXX")
trap 'rmdir "$disk"' EXIT
namespace=-m
[ "$(id -u)" = 0 ] || namespace=-rm
unshare "$namespace" sh -euc '
    disk=$1
    shift
    mount -t tmpfs -o size=64m tmpfs "$disk"
    timeout 1200 cargo bench --profile "${PROFILE:-bench}" --bench load -- scenario diskfull --directory "$disk" "$@"
' sh "$disk" "$@"
