#!/usr/bin/env bash
# swaks: one submission through STARTTLS and AUTH. What it is told and prints: see run.sh.
set -euo pipefail

trace=$(
    # A refusal after the final dot is an exit code of its own; the reply in the trace decides.
    swaks --server "$HOST" --port "$PORT" --timeout 30 \
        --tls --tls-verify --tls-ca-path "$CA" \
        --auth PLAIN --auth-user "$LOGIN" --auth-password "$PASSWORD" \
        --from "$SENDER" --to "$RECIPIENT" \
        --header "Subject: From swaks" --header "X-Idempotency-Key: $KEY" \
        --attach-type text/plain --attach-body "@$TEXT" \
        --attach-type application/pdf --attach-name invoice.pdf --attach "@$ATTACHMENT" \
        </dev/null 2>&1 || true
)
# `<~  ` is a good reply under TLS, `<~* ` an error; the first after 354 is the one to the final dot.
reply=$(sed -n '/^<~.* 354/,$ s/^<~[* ] *\([2-5][0-9][0-9] .*\)/\1/p' <<<"$trace" | tr -d '\r' | grep -v '^354' | head -n 1 || true)
[[ -n $reply ]] || { printf '%s\n' "$trace" >&2; exit 1; }
printf '%s\n' "$reply"
