#!/bin/sh
# Builds the Debian package: packaging/deb.sh; it is in target/debian/ then. Needs cargo-deb (`cargo install cargo-deb`).
#
# PROFILE=dev takes a quick build instead of a release, to look at the package itself.
set -eu
cd "$(dirname "$0")/.."

profile=${PROFILE:-release}
case $profile in
dev) directory=debug ;;
*) directory=$profile ;;
esac
cargo build --locked --profile "$profile" --bin oncemail
binary=target/$directory/oncemail

# What the binary says of itself.
made=target/packaging
rm -rf "$made"
mkdir -p "$made/man" "$made/completions"
"$binary" man --out "$made/man"
for shell in bash zsh fish; do
    "$binary" completions "$shell" >"$made/completions/$shell"
done
packaging/sbom.sh

cargo deb --locked --no-build --profile "$profile" "$@"
