#!/usr/bin/env bash
# Checks docker/grafana against the metrics of the real program: tests/grafana/binary.sh [PROGRAM]
# (default: target/debug/oncemail). Needs curl besides what run.sh needs.
set -euo pipefail
cd "$(dirname "$0")/../.."

program=$(realpath "${1:-target/debug/oncemail}")
work=$(mktemp -d)
relay=
stop() {
    [[ -z $relay ]] || { kill "$relay" 2>/dev/null || true; wait "$relay" 2>/dev/null || true; }
    rm -rf "$work"
}
trap stop EXIT

# With TLS, so that the end of a certificate is shown too.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=relay.example \
    -addext subjectAltName=DNS:relay.example -keyout "$work/key.pem" -out "$work/certificate.pem" 2>/dev/null
cat >"$work/oncemail.toml" <<TOML
hostname = "relay.example"
data_dir = "$work/data"
[[listener]]
name = "submission"
address = "127.0.0.1:0"
tls = "starttls"
auth = "none"
[tls]
certificate_file = "$work/certificate.pem"
key_file = "$work/key.pem"
[[route]]
name = "files"
transport = "directory"
path = "$work/mail"
[[webhook]]
url = "https://127.0.0.1:9/events"
secret = "a secret for the test of metrics"
TOML
exec {log}< <(exec "$program" serve --config "$work/oncemail.toml" 2>&1)
relay=$!
# Whoever listens for mail listens on the socket too.
while read -r -t 60 line <&"$log"; do
    printf '%s\n' "$line" >>"$work/log"
    [[ $line != *listening* ]] || break
done
curl --silent --fail --max-time 60 --unix-socket "$work/data/admin.sock" http://localhost/metrics >"$work/metrics.txt" ||
    { echo "no metrics came" >&2; cat "$work/log" >&2; exit 1; }
tests/grafana/run.sh "$work/metrics.txt"
