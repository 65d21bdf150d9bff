"""Starts the relay, gives it mail, and lets schemathesis judge its HTTP API: check.py PROGRAM DIRECTORY SCHEMATHESIS.

Three looks over all operations but the stream, which never ends: right and wrong requests made from openapi.json, whose
answers must be what it says. The first has the right to everything. The second has a token that may only read: nothing
may be changed with it. The third comes without a token and with wrong ones, until the relay does not listen any more.
"""

import json
import smtplib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from relay import PATIENCE, Relay

PROGRAM, HOME, SCHEMATHESIS = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
OPERATOR, READER = "operator-0123456789abcdef", "reader-0123456789abcdef"
BUDGET = 50  # seconds that schemathesis may take with everything; a quarter of it for each of the other two
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
]


def fail(what):
    sys.exit(f"API tests: {what}")


class Filled(Relay):
    """The program under test: one open listener; mail to later.example finds nobody and waits, all
    other mail is delivered."""

    def __init__(self):
        (HOME / "oncemail.toml").write_text(
            f'hostname = "relay.example"\ndata_dir = "{HOME}/data"\n'
            f'[log]\nformat = "json"\n[limits]\nmin_free = "1MB"\n'
            f'[[listener]]\nname = "submission"\naddress = "127.0.0.1:0"\ntls = "none"\nauth = "none"\n'
            f'[admin]\naddress = "127.0.0.1:0"\ntoken = "{OPERATOR}"\n'
            f'[[admin_token]]\nname = "reader"\ntoken = "{READER}"\n'
            f"[suppression]\non_hard_bounce = true\n"
            f'[[route]]\nname = "later"\nrecipient_domains = ["later.example"]\ntransport = "smarthost"\n'
            f'hosts = ["127.0.0.1:1"]\ntls = "none"\n'
            f'[[route]]\nname = "files"\ntransport = "directory"\npath = "{HOME}/mail"\n'
        )
        super().__init__([PROGRAM, "serve", "--config", str(HOME / "oncemail.toml")], HOME / "log.jsonl")
        self.smtp = self.says("listening")["address"]
        self.http = "http://" + self.says("the HTTP API is listening")["address"]

    def ask(self, path, body=None, token=OPERATOR):
        request = urllib.request.Request(
            self.http + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def until(self, query, count):
        """Looks until so many messages are found: nothing says when the history has written, or a hold come to its turn."""
        for number in range(500):
            if len(self.ask(f"/api/v1/messages?{query}")["messages"]) >= count:
                return
            time.sleep(min(number, 50) / 1000)
        fail(f"there are never {count} messages for {query}")

    def fill(self):
        """Mail that waits, mail that is held, and mail that is over, some of it with replays."""
        host, _, port = self.smtp.rpartition(":")
        with smtplib.SMTP(host, int(port), timeout=PATIENCE) as client:
            for number in range(24):
                for domain in ("later.example", "gone.example"):
                    for _ in range(1 + (number < 3)):
                        client.sendmail(
                            "shop@sender.example",
                            [f"customer-{number}@{domain}", f"copy@{domain}"],
                            f"X-Idempotency-Key: order-{number}/{domain}\r\nSubject: Order {number}\r\n\r\nHello\r\n",
                        )
        self.until("state=delivered", 24)
        for waiting in self.ask("/api/v1/messages?limit=12")["messages"]:
            self.ask(f"/api/v1/messages/{waiting['id']}/actions", {"action": "hold"})
        self.until("state=held", 12)
        # A message that is held, so that the operations on one message have one; in the end it may be in the history.
        [held, *_] = self.ask("/api/v1/messages?state=held")["messages"]
        (HOME / "schemathesis.toml").write_text(
            '[[operations]]\ninclude-path = "/api/v1/stream"\nenabled = false\n'
            f'[[operations]]\ninclude-path-regex = "/messages/.id.*"\nparameters = {{ "path.id" = "{held["id"]}" }}\n'
        )


def judge(relay, name, token, seconds, checks, more):
    arguments = [
        SCHEMATHESIS,
        "--config-file",
        str(HOME / "schemathesis.toml"),
        "run",
        f"{relay.http}/api/v1/openapi.json",
        "--url",
        relay.http,
        "--header",
        f"Authorization: Bearer {token}",
        "--max-time",
        str(seconds),
        "--request-timeout",
        "40",
        "--continue-on-failure",
        "--no-color",
        "--generation-deterministic",
        "--generation-with-security-parameters",
        "false",
        "--checks",
        ",".join(checks),
        *more,
    ]
    try:
        done = subprocess.run(
            arguments, cwd=HOME, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds + PATIENCE
        )
    except subprocess.TimeoutExpired:
        fail(f"{name}: schemathesis did not end; see {HOME}")
    (HOME / f"{name}.txt").write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        print(done.stdout[-20000:], done.stderr[-2000:])
        fail(f"{name}: the API is not what it says; all of it is in {HOME}/{name}.txt")
    print(f"API tests: {name}: ok")


def main():
    relay = Filled()
    relay.fill()
    # Whoever tries wrong tokens at the login is shut out: that comes last.
    whole = ["--phases", "coverage,fuzzing,stateful", "--exclude-path", "/session"]
    judge(relay, "everything", OPERATOR, BUDGET, CHECKS, whole)
    before = relay.ask("/api/v1/overview")
    reading = [check for check in CHECKS if check != "negative_data_rejection"]
    part = ["--phases", "coverage", "--exclude-path", "/session"]
    judge(relay, "reading", READER, BUDGET // 4, reading, part)
    after = relay.ask("/api/v1/overview")
    for name in ("queued", "held", "accepted"):
        if before[name] != after[name]:
            fail(f"a token that may only read has changed {name} from {before[name]} to {after[name]}")
    if not relay.ask("/api/v1/messages?state=delivered")["messages"]:
        fail("the history is empty after it all")
    judge(relay, "without a token", OPERATOR, BUDGET // 4, ["ignored_auth", *reading], ["--phases", "coverage"])
    relay.stop()


main()
