#!/bin/sh
# Lays out everything that the image has: docker/root.sh BINARY DIRECTORY.
#
# The program, the libraries that it is linked to, the certificate authorities that a smarthost's certificate is checked
# against, and a place for the queue. No shell, no package manager, no user database: nothing that an intruder could run.
set -eu
binary=$1 root=$2

mkdir -p "$root/usr/local/bin" "$root/etc/ssl/certs" "$root/var/lib/oncemail"
cp "$binary" "$root/usr/local/bin/oncemail"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
ldd "$binary" | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^\//) print $i }' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
