#!/bin/sh
# What remembered keys cost: the rate over SMTP with MILLIONS of them and with none, in turn.
#
#   benches/keys.sh [MILLIONS] [ROUNDS]      default: 10 millions, 4 rounds
#
# Fills a data directory below target/tmp through the store (a minute or two), then starts the relay on it and on an empty
# one by turns, each with the same load: 50 connections, 2 KB, a new key on each message, relayed to a sink.
set -eu
cd "$(dirname "$0")/.."
millions=${1:-10} rounds=${2:-4} messages=100000

cargo build --release --locked --quiet
# The program of the bench target $1, as cargo prints it.
program() { cargo bench --locked --no-run --bench "$1" 2>&1 | sed -n 's/.*(\(.*\)).*/\1/p' | tail -n 1; }
store=$(program store) load=$(program load)
mkdir -p target/tmp
home=$(mktemp -d "$PWD/target/tmp/keys-XXXXXX")
relay='' sink=''
stop() {
    for child in $relay $sink; do kill "$child" 2>/dev/null || true; done
    wait
    rm -rf "$home"
}
trap stop EXIT
trap 'exit 130' INT TERM

# The address in the first line of the file $1 that has $2, once it is there.
address() {
    until line=$(grep -m 1 "$2" "$1"); do sleep 0.05; done
    echo "$line" | grep -o '127\.0\.0\.1:[0-9]*'
}

"$store" fill "$home/full" "$millions"
"$load" sink --for 1h >"$home/sink.log" &
sink=$!
next_hop=$(address "$home/sink.log" 127.0.0.1)

configure() {
    cat <<EOF
hostname = "relay.example"
data_dir = "$home/$1"
[[listener]]
name = "bench"
address = "127.0.0.1:0"
tls = "none"
auth = "none"
[[route]]
name = "sink"
transport = "smarthost"
hosts = ["$next_hop"]
tls = "none"
messages_per_connection = 10000
[limits]
messages_per_connection = 1000000
[log]
format = "json"
level = "error,oncemail::app=info"
EOF
}

round=1
while [ "$round" -le "$rounds" ]; do
    for side in empty full; do
        configure "$side" >"$home/$side.toml"
        target/release/oncemail serve --config "$home/$side.toml" >"$home/$side.log" 2>&1 &
        relay=$!
        listens=$(address "$home/$side.log" listening)
        printf '%s: ' "$side"
        "$load" generate "$listens" --messages "$messages" | grep '^rate'
        kill "$relay"
        wait "$relay" || true
        relay=''
    done
    round=$((round + 1))
done
