#!/bin/sh
# Writes the bill of materials, CycloneDX as JSON: packaging/sbom.sh; it is target/packaging/oncemail.cdx.json then.
# `packaging/sbom.sh --install` only installs the tool that makes it, OWASP's cargo-cyclonedx, where it is not there yet.
#
# It lists every crate that is compiled into the program on this system, with version, licence and checksum; what only runs when
# it is built or tested is left out. TARGET takes another system.
set -eu
cd "$(dirname "$0")/.."

version=0.5.9
tools=${CARGO_TARGET_DIR:-target}/tools
PATH=$tools/bin:$PATH
case $(cargo cyclonedx --version 2>/dev/null || true) in
*" $version") ;;
# Unoptimised: it runs for a second, and so builds in half the time.
*) CARGO_TARGET_DIR=$tools/build cargo install --quiet cargo-cyclonedx --version "$version" --locked --debug --root "$tools" ;;
esac
[ "${1:-}" = --install ] && exit

target=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
# The same sources give the same file: the time is that of the last commit, where there is one.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
cargo cyclonedx --quiet --format json --spec-version 1.5 --target "$target" --no-build-deps \
    --override-filename oncemail.cdx
mkdir -p target/packaging
python3 packaging/sbom.py "$target" <oncemail.cdx.json >target/packaging/oncemail.cdx.json
rm oncemail.cdx.json
