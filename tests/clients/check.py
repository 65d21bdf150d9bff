"""Starts the relay, lets each client submit, and judges: check.py PROGRAM DIRECTORY NODE_MODULES_PARENT.

For each client, with one key: a first submission is queued; a second one, built anew by the library, replays the
first queue id; one with another text is refused; and exactly one file is delivered, with the bytes that were sent.
"""

import email
import email.policy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from relay import PATIENCE, Relay

PROGRAM, HOME, NODE_MODULES = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
HERE = Path(__file__).parent
CLIENTS = {
    "smtplib": [sys.executable, str(HERE / "client_smtplib.py")],
    "aiosmtplib": [sys.executable, str(HERE / "client_aiosmtplib.py")],
    "nodemailer": ["node", str(HERE / "client_nodemailer.mjs")],
    "curl": [str(HERE / "client_curl.sh")],
    "swaks": [str(HERE / "client_swaks.sh")],
}
# Lines that a careless sender would mangle: leading dots, a dot alone, UTF-8, trailing space, a long line.
TEXT = "Hello,\r\n.\r\n..dots\r\n.leading\r\nÜnïcode \u4f60\u597d\r\nspace at the end \r\n" + "long " * 40 + "\r\nBye\r\n"
ATTACHMENT = bytes(range(256)) * 37 + b"\r\n.\r\n\n\r"
QUEUED = re.compile(r"250 2\.0\.0 OK Message queued as (\S+)")
REPLAYED = re.compile(r"250 2\.0\.0 OK Message already queued as (\S+) \(idempotent replay\)")
MISMATCH = "554 5.5.0 X-Idempotency-Key reused with different body"


def fail(what):
    sys.exit(f"client tests: {what}")


def start_relay():
    """The program under test: one listener with STARTTLS and AUTH, one directory for each client; and its port."""
    hashed = subprocess.run(
        [PROGRAM, "hash-password"], input="correct horse\n", capture_output=True, text=True, check=True
    ).stdout.strip()
    routes = "".join(
        f'[[route]]\nname = "{name}"\ntransport = "directory"\npath = "{HOME}/mail/{name}"\n'
        f'recipient_domains = ["{name}.example"]\n'
        for name in CLIENTS
    )
    routes += '[[route]]\nname = "rest"\ntransport = "discard"\n'
    config = HOME / "oncemail.toml"
    config.write_text(
        f'hostname = "relay.example"\ndata_dir = "{HOME}/data"\n'
        f'[[listener]]\nname = "submission"\naddress = "127.0.0.1:0"\ntls = "starttls"\nauth = "required"\n'
        f'[tls]\ncertificate_file = "{HOME}/cert.pem"\nkey_file = "{HOME}/key.pem"\n'
        f"[[user]]\nname = \"shop\"\npassword_hash = '{hashed}'\n"
        f'[log]\nformat = "json"\n{routes}'
    )
    relay = Relay([PROGRAM, "serve", "--config", str(config)], HOME / "log.jsonl")
    return relay, relay.says("listening")["address"].rpartition(":")[2]


def submit(name, port, text, attempt):
    text_file = HOME / f"{name}-{attempt}.txt"
    text_file.write_bytes(text.encode())
    environment = os.environ | {
        "HOST": "localhost",
        "PORT": port,
        "CA": str(HOME / "ca.pem"),
        "LOGIN": "shop",
        "PASSWORD": "correct horse",
        "SENDER": "shop@sender.example",
        "RECIPIENT": f"customer@{name}.example",
        "KEY": f"order-1001/{name}",
        "TEXT": str(text_file),
        "ATTACHMENT": str(HOME / "attachment.bin"),
        "SENT": str(HOME / f"{name}-{attempt}.sent"),
        "NODE_MODULES": NODE_MODULES,
    }
    done = subprocess.run(
        CLIENTS[name], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE
    )
    if done.returncode != 0:
        fail(f"{name}, submission {attempt}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def converse(name, port):
    """First submission, retry, mismatch."""
    first = QUEUED.fullmatch(reply := submit(name, port, TEXT, 1))
    if not first:
        fail(f"{name}: the first submission got {reply!r}")
    again = REPLAYED.fullmatch(reply := submit(name, port, TEXT, 2))
    if not again:
        fail(f"{name}: the retry got {reply!r}")
    if again[1] != first[1]:
        fail(f"{name}: the retry replays {again[1]}, the first submission was {first[1]}")
    if (reply := submit(name, port, TEXT + "PS\r\n", 3)) != MISMATCH:
        fail(f"{name}: another text under the same key got {reply!r}")


def judge_delivery(name):
    delivered = list((HOME / "mail" / name).glob("*.eml"))
    if len(delivered) != 1:
        fail(f"{name}: {len(delivered)} files were delivered, not one")
    envelope = delivered[0].with_suffix(".json").read_text()
    json.loads(envelope)
    for address in ("shop@sender.example", f"customer@{name}.example"):
        if address not in envelope:
            fail(f"{name}: {address} is not in the envelope {envelope}")
    raw = delivered[0].read_bytes()
    judge_parts(name, raw)
    sent = HOME / f"{name}-1.sent"
    if sent.exists():
        judge_bytes(name, raw, sent.read_bytes())


def judge_parts(name, raw):
    """What a reader of the mail sees."""
    mail = email.message_from_bytes(raw, policy=email.policy.SMTP)
    if mail["X-Idempotency-Key"] is not None:
        fail(f"{name}: the key left the relay")
    text, attachment = [part for part in mail.walk() if not part.is_multipart()]
    # Libraries differ in how they end the last line.
    got = text.get_payload(decode=True).replace(b"\r\n", b"\n").rstrip(b"\n")
    if got != TEXT.encode().replace(b"\r\n", b"\n").rstrip(b"\n"):
        fail(f"{name}: the text was changed: {got!r}")
    if attachment.get_payload(decode=True) != ATTACHMENT or attachment.get_filename() != "invoice.pdf":
        fail(f"{name}: the attachment was changed")


def judge_bytes(name, raw, sent):
    """Byte for byte: what was sent, without the key, behind one Received field."""
    sent = re.sub(rb"\r?\n", b"\r\n", sent)
    sent = re.sub(rb"(?im)^x-idempotency-key:.*\r\n(?:[ \t].*\r\n)*", b"", sent, count=1)
    rest = re.sub(rb"\AReceived:.*\r\n(?:[ \t].*\r\n)*", b"", raw, count=1)
    if rest == raw:
        fail(f"{name}: no Received field was added")
    if rest.rstrip(b"\r\n") != sent.rstrip(b"\r\n"):
        (HOME / f"{name}.expected").write_bytes(sent)
        fail(f"{name}: the delivered bytes differ from those sent; compare {HOME}/{name}.expected")


def main():
    (HOME / "attachment.bin").write_bytes(ATTACHMENT)
    relay, port = start_relay()
    for name in CLIENTS:
        converse(name, port)
        delivery = relay.says("delivery")
        if (delivery["recipient"], delivery["outcome"]) != (f"customer@{name}.example", "delivered"):
            fail(f"{name}: not delivered: {delivery}")
    # Only a relay that has stopped cannot deliver a second copy any more.
    relay.stop()
    for name in CLIENTS:
        judge_delivery(name)
        print(f"{name}: queued, replayed, refused, delivered once")


main()
