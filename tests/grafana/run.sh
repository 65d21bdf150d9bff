#!/bin/sh
# Checks what is in docker/grafana against a text of metrics:
#   curl -s http://127.0.0.1:8025/metrics > metrics.txt && tests/grafana/run.sh metrics.txt
# Needs promtool (Debian: prometheus) and jq; PROMTOOL names another promtool.
#
#   1. the alert rules are valid, and fire when they should and only then
#   2. the dashboard is JSON, and each of its queries is one that Prometheus understands
#   3. every metric that a rule or a panel asks for is in the text
#   4. the text passes Prometheus' own checks of names, units and types
set -eu

text=${1:?usage: run.sh METRICS_TEXT}
promtool=${PROMTOOL:-promtool}
grafana=$(cd "$(dirname "$0")/../../docker/grafana" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$promtool" check rules "$grafana/alerts.yml"
"$promtool" check config --syntax-only "$grafana/prometheus.yml"
"$promtool" test rules "$grafana/alerts_test.yml"

for dashboard in "$grafana"/dashboards/*.json; do
    jq -e '.uid and .title and ([.panels[].id] | length == (unique | length))' "$dashboard" > /dev/null
    # What only Grafana knows is filled in, and each query becomes a rule, so that promtool reads it.
    jq '{groups: [{name: "panels", rules: [[.panels[].targets[]?.expr] | to_entries[] | {
            record: "panel:\(.key)",
            expr: (.value | gsub("\\$__rate_interval"; "5m") | gsub("\\$(instance|job)"; ".*"))}]}]}' \
        "$dashboard" > "$work/panels.yml"
    "$promtool" check rules "$work/panels.yml"
done

# A family of counters has its suffix in the samples only; OpenMetrics has lines that the older format does not know.
awk '/^# EOF$/ || /^# UNIT / { next }
     /^# HELP / { help = $0; next }
     /^# TYPE / { name = $3; shown = ($4 == "counter") ? name "_total" : name
                  sub("^# HELP " name " ", "# HELP " shown " ", help); print help
                  print "# TYPE " shown " " $4; next }
     { print }' "$text" > "$work/classic.txt"
"$promtool" check metrics < "$work/classic.txt"

grep -v '^#' "$text" | sed 's/[{ ].*//' | sort -u > "$work/known"
{
    jq -r '.panels[].targets[]?.expr, .templating.list[].definition // empty' "$grafana"/dashboards/*.json
    grep -v '^ *#' "$grafana/alerts.yml" | grep -v 'summary:\|description:\|alert:\|name:'
} | grep -oE '\b(oncemail|process)_[a-z0-9_]+' | sort -u > "$work/asked"
missing=$(comm -23 "$work/asked" "$work/known")
if [ -n "$missing" ]; then
    echo "asked for, but not in $text:" $missing >&2
    exit 1
fi
echo "docker/grafana asks for $(wc -l < "$work/asked") metrics, and all of them are there"
