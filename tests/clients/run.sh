#!/usr/bin/env bash
# Real mail clients against a real relay: tests/clients/run.sh [PROGRAM]  (default: target/debug/oncemail).
#
# Prepares what the clients need under target/clients (certificates, a Python environment, nodemailer), then lets
# check.py start the relay and judge; check_dkim.py does the same for signatures on the wire. Needs python3, node, npm,
# openssl, curl and swaks.
#
# Each client_* program sends one message and is told by its environment:
#   HOST PORT CA          where to, and the authority that signed its certificate
#   LOGIN PASSWORD        for AUTH
#   SENDER RECIPIENT KEY  envelope and X-Idempotency-Key
#   TEXT ATTACHMENT       files with the body's text (UTF-8) and the attachment's bytes
#   SENT                  where it may write the message as its library sent it
# It prints the reply to the final dot on one line, also when that is a refusal, and fails on anything else.
set -euo pipefail
cd "$(dirname "$0")/../.."

program=${1:-target/debug/oncemail}
place=${CARGO_TARGET_DIR:-target}/clients
here=tests/clients

for need in python3 node npm openssl curl swaks; do
    command -v "$need" >/dev/null || { echo "client tests: $need is missing" >&2; exit 1; }
done
[[ -x $program ]] || { echo "client tests: $program is missing; build it first" >&2; exit 1; }
mkdir -p "$place/run"
program=$(realpath "$program")
place=$(realpath "$place")

# Installed once, again only when the list changes.
if ! cmp --silent "$here/requirements.txt" "$place/requirements.txt"; then
    python3 -m venv --clear "$place/venv"
    "$place/venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$place/requirements.txt"
fi
if ! cmp --silent "$here/package.json" "$place/package.json"; then
    cp "$here/package.json" "$place/package.json.new"
    mkdir -p "$place/npm"
    cp "$here/package.json" "$place/npm/package.json"
    npm install --prefix "$place/npm" --no-audit --no-fund --loglevel error
    mv "$place/package.json.new" "$place/package.json"
fi

# A certificate authority and a server certificate of their own for each run.
tls=$(mktemp --directory "$place/run/XXXXXX")
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=test authority" \
    -keyout "$tls/ca.key" -out "$tls/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=localhost" \
    -keyout "$tls/key.pem" -out "$tls/request.pem" 2>/dev/null
openssl x509 -req -in "$tls/request.pem" -CA "$tls/ca.pem" -CAkey "$tls/ca.key" -CAcreateserial -days 2 \
    -extfile <(printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n') \
    -out "$tls/cert.pem" 2>/dev/null

"$place/venv/bin/python" "$here/check.py" "$program" "$tls" "$place/npm"
mkdir "$tls/dkim"
"$place/venv/bin/python" "$here/check_dkim.py" "$program" "$tls/dkim"
