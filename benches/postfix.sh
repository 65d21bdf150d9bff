#!/bin/sh
# Runs a throw-away Postfix beside oncemail: same generator, same sink, one table.
#
#   benches/postfix.sh [scenario …] [option of `load scenario` …]
#
# Needs root (Postfix changes users) and an installed Postfix, which may be stopped and is left as it is: all that this
# one uses is in a directory of its own, deleted at the end. It listens on loopback only and relays all mail to the
# sink. Ports: POSTFIX_PORT (2526) and SINK_PORT (2527). LOAD names a built `load` binary; cargo builds one otherwise.
# POSTFIX_TUNING=stock leaves Postfix's own limits, for a comparison with an untuned one.
set -eu

port=${POSTFIX_PORT:-2526}
sink=${SINK_PORT:-2527}
root=$(cd "$(dirname "$0")/.." && pwd)
[ "$(id -u)" = 0 ] || { echo "postfix.sh: Postfix needs root" >&2; exit 2; }
command -v postconf >/dev/null || { echo "postfix.sh: apt-get install postfix" >&2; exit 2; }

# Postfix refuses to run below a directory that others may write, and the disk must be the one that oncemail gets.
mkdir -p "$root/target/tmp"
home=$(mktemp -d "$root/target/tmp/postfix-XXXXXX")
chmod 755 "$home"
mkdir -p "$home/etc" "$home/queue" "$home/state"
chown postfix "$home/state"

stop() {
    postfix -c "$home/etc" stop >/dev/null 2>&1 || true
    # What is still queued belongs to nobody; the master has ended when its pid file can be taken away.
    rm -rf "$home"
}
trap stop EXIT
trap 'exit 130' INT TERM

shared=$(postconf -d -h daemon_directory)
cat >"$home/etc/main.cf" <<EOF
compatibility_level = 3.6
queue_directory = $home/queue
data_directory = $home/state
daemon_directory = $shared
shlib_directory = $(postconf -h shlib_directory)
maillog_file = $home/queue/log
maillog_file_prefixes = $home
myhostname = postfix.load.invalid
mydestination =
alias_maps =
local_recipient_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_tls_security_level = none
smtp_tls_security_level = none
smtp_dns_support_level = disabled
relayhost = [127.0.0.1]:$sink
message_size_limit = 52428800
# A held sink must not look like a dead one, and a connection that failed must not wait for minutes.
smtp_helo_timeout = 3600s
minimal_backoff_time = 5s
maximal_backoff_time = 10s
queue_run_delay = 5s
EOF
if [ "${POSTFIX_TUNING:-throughput}" = throughput ]; then
    cat >>"$home/etc/main.cf" <<EOF
default_process_limit = 200
smtpd_client_connection_count_limit = 0
smtpd_peername_lookup = no
smtpd_delay_reject = no
smtpd_client_restrictions =
in_flow_delay = 0
qmgr_message_active_limit = 100000
qmgr_message_recipient_limit = 100000
initial_destination_concurrency = 20
default_destination_concurrency_limit = 20
smtp_connection_cache_on_demand = yes
smtp_connection_cache_destinations = 127.0.0.1
smtp_connection_reuse_count_limit = 10000
max_use = 10000
EOF
fi
# The services of a stock master.cf that relaying needs, none in a chroot.
cat >"$home/etc/master.cf" <<EOF
127.0.0.1:$port inet n - n - - smtpd
cleanup   unix  n  -  n  -     0  cleanup
qmgr      unix  n  -  n  300   1  qmgr
tlsmgr    unix  -  -  n  1000? 1  tlsmgr
rewrite   unix  -  -  n  -     -  trivial-rewrite
bounce    unix  -  -  n  -     0  bounce
defer     unix  -  -  n  -     0  bounce
trace     unix  -  -  n  -     0  bounce
verify    unix  -  -  n  -     1  verify
proxymap  unix  -  -  n  -     -  proxymap
smtp      unix  -  -  n  -     -  smtp
relay     unix  -  -  n  -     -  smtp
error     unix  -  -  n  -     -  error
retry     unix  -  -  n  -     -  error
discard   unix  -  -  n  -     -  discard
anvil     unix  -  -  n  -     1  anvil
scache    unix  -  -  n  -     1  scache
postlog   unix-dgram n - n -   1  postlogd
EOF
postfix -c "$home/etc" start
master=$(tr -d ' ' <"$home/queue/pid/master.pid")

# With no scenario among the arguments, those that suit any relay.
case " $* " in
*" accept"* | *" relay"* | *" reconnect"* | *" large"*) ;;
*) set -- accept10 accept50 relay10 relay50 reconnect large "$@" ;;
esac
if [ -n "${LOAD:-}" ]; then
    "$LOAD" scenario --compare "127.0.0.1:$port" --compare-name postfix --compare-pid "$master" --sink-port "$sink" "$@"
else
    cd "$root"
    cargo bench --bench load -- scenario \
        --compare "127.0.0.1:$port" --compare-name postfix --compare-pid "$master" --sink-port "$sink" "$@"
fi
