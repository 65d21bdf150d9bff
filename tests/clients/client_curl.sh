#!/usr/bin/env bash
# curl: one submission through STARTTLS and AUTH, its own MIME builder. What it is told and prints: see run.sh.
set -euo pipefail

trace=$(
    # A refusal after the final dot is exit code 8, 55 or 56; the reply in the trace decides.
    curl --verbose --silent --show-error --max-time 60 \
        --ssl-reqd --cacert "$CA" --user "$LOGIN:$PASSWORD" \
        --mail-from "$SENDER" --mail-rcpt "$RECIPIENT" \
        --header "From: <$SENDER>" --header "To: <$RECIPIENT>" --header "Subject: From curl" \
        --header "Date: $(date -R)" --header "Message-ID: <$(date +%s%N).$$@client.example>" \
        --header "X-Idempotency-Key: $KEY" \
        --form "=<$TEXT;type=text/plain;encoder=quoted-printable" \
        --form "file=@$ATTACHMENT;filename=invoice.pdf;type=application/pdf;encoder=base64" \
        "smtp://$HOST:$PORT" 2>&1 || true
)
# The first reply after 354 is the one to the final dot.
reply=$(sed -n '/^< 354/,$ s/^< \([2-5][0-9][0-9] .*\)/\1/p' <<<"$trace" | tr -d '\r' | grep -v '^354' | head -n 1 || true)
[[ -n $reply ]] || { printf '%s\n' "$trace" >&2; exit 1; }
printf '%s\n' "$reply"
