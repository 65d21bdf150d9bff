"""Signed mail over the wire, judged by dkimpy: check_dkim.py PROGRAM DIRECTORY.

The relay signs with RSA keys of all usual lengths and with an Ed25519 key, puts a forwarded key on top, and sends to a
next hop made here, which keeps each message as it came over the wire. dkimpy, another implementation by other authors,
must find every signature right, and wrong as soon as a word of the message is another. A bounce is signed for the
relay's own name.
"""

import base64
import io
import queue
import smtplib
import socket
import subprocess
import sys
import threading
from pathlib import Path

import dkim

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from relay import PATIENCE, Relay

PROGRAM, HOME = sys.argv[1], Path(sys.argv[2])
BITS = (2048, 3072, 4096)
SELECTORS = {f"rsa{bits}": ["RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}"] for bits in BITS} | {"ed": ["ed25519"]}
DOMAINS = ("shop.example", "relay.example")  # the senders' and the relay's own
KEY_FIELD = b"Resend-Idempotency-Key: "
FROM = b"From: Shop <shop@shop.example>\r\n"
MESSAGES = {
    "plain": FROM + b"To: b@c.example\r\nSubject: x\r\n\r\nHello  you \r\n",
    "without a body": FROM + b"Subject: x\r\n\r\n",
    "empty lines at the end": FROM + b"\r\ntext\r\n\r\n\r\n",
    "white space at the end": FROM + b"\r\ntext\r\n \r\n\t \r\n\r\n",
    "nothing but white space": FROM + b"\r\n \t\r\n \r\n",
    "dots": FROM + b"\r\n.\r\n..\r\n. x\r\n",
    "eight bits": FROM + "Subject: grün\r\n €\r\n\r\nbödy\r\n".encode(),
    "folded fields": b"from:\r\n Shop\r\n\t<shop@shop.example> \r\nSUBJECT:  a\r\n  b\t\r\n\r\nx\r\n",
    "many recipients of a list": FROM + b"Reply-To: a@b.example\r\nReply-To: c@d.example\r\nList-Id: <l.example>\r\n"
    + b"List-Unsubscribe: <https://l.example/u>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\nx\r\n",
    "long references": FROM + b"References:" + b" <0123456789@a.example>\r\n" * 200 + b"\r\nx\r\n",
    "a domain below": b"From: a@news.shop.example\r\n\r\nx\r\n",
    "no author": b"Subject: x\r\n\r\nx\r\n",
    "a To for each recipient": FROM + b"To: b@c.example\r\n" * 20 + b"\r\nx\r\n",
    "a body where fields end": FROM + b"this is no field\r\nNor-Is: this\r\n",
    "very long lines": FROM + b"To: " + b"x" * 900 + b"\r\nSubject: " + b"y " * 450 + b"\r\n\r\n" + b"z" * 990,
    "ten megabytes": FROM + b"\r\n" + b"The quick  brown fox \tjumps over the lazy dog. \r\n" * 200_000,
}


def fail(what):
    sys.exit(f"dkim tests: {what}")


class NextHop(threading.Thread):
    """Takes everything, and keeps each message with its dots undone."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.messages = queue.Queue()

    def run(self):
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection, connection.makefile("rwb") as stream:
            self.say(stream, b"220 far.example ESMTP")
            somebody = False
            for line in stream:
                verb = line[:4].upper()
                if verb == b"EHLO":
                    self.say(stream, b"250-far.example\r\n250-PIPELINING\r\n250 8BITMIME")
                elif verb == b"MAIL":
                    somebody = False
                    self.say(stream, b"250 2.1.0 ok")
                elif verb == b"DATA" and not somebody:
                    self.say(stream, b"554 5.5.1 no valid recipients")
                elif verb == b"DATA":
                    self.say(stream, b"354 go ahead")
                    message = []
                    while (part := stream.readline()) != b".\r\n":
                        if not part:
                            return
                        message.append(part[1:] if part.startswith(b".") else part)
                    self.messages.put(b"".join(message))
                    self.say(stream, b"250 2.0.0 taken")
                elif line.upper().startswith(b"RCPT TO:<GONE@"):
                    self.say(stream, b"550 5.1.1 no such user")
                elif verb == b"RCPT":
                    somebody = True
                    self.say(stream, b"250 2.1.5 ok")
                elif verb == b"QUIT":
                    self.say(stream, b"221 2.0.0 bye")
                    return
                else:
                    self.say(stream, b"250 2.0.0 ok")

    @staticmethod
    def say(stream, reply):
        stream.write(reply + b"\r\n")
        stream.flush()

    def next_message(self):
        try:
            return self.messages.get(timeout=PATIENCE)
        except queue.Empty:
            fail(f"nothing was delivered; see {HOME}/log.jsonl")


def start_relay(next_hop):
    """The program, and the port that it listens on."""
    keys = "".join(
        f'[[dkim]]\ndomain = "{domain}"\nselector = "{selector}"\nkey_file = "{HOME}/{selector}.pem"\n'
        for domain in DOMAINS
        for selector in SELECTORS
    )
    config = HOME / "oncemail.toml"
    config.write_text(
        f'hostname = "relay.example"\ndata_dir = "{HOME}/data"\n'
        f'[[listener]]\nname = "main"\naddress = "127.0.0.1:0"\ntls = "none"\nauth = "none"\n'
        f'[log]\nformat = "json"\n{keys}'
        f'[[route]]\nname = "out"\ntransport = "smarthost"\nhosts = ["127.0.0.1:{next_hop.port}"]\ntls = "none"\n'
        f'forward_key_as = "{KEY_FIELD.decode().rstrip(": ")}"\n'
    )
    relay = Relay([PROGRAM, "serve", "--config", str(config)], HOME / "log.jsonl")
    return relay, int(relay.says("listening")["address"].rpartition(":")[2])


def published(selector):
    """The TXT record of a key."""
    made = ["openssl", "pkey", "-in", str(HOME / f"{selector}.pem"), "-pubout", "-outform", "DER"]
    der = subprocess.run(made, capture_output=True, check=True).stdout
    # RFC 8463 §4: an Ed25519 key stands there without its ASN.1.
    octets, kind = (der[-32:], "ed25519") if selector == "ed" else (der, "rsa")
    return f"v=DKIM1; k={kind}; p={base64.b64encode(octets).decode()}".encode()


def judge(name, raw, records):
    def ask(domain, timeout=5):
        return records.get(domain.decode().rstrip("."))

    def verdict(message, index):
        try:
            return dkim.DKIM(message).verify(idx=index, dnsfunc=ask)
        except dkim.ValidationError as error:
            print(f"{name}: {error}", file=problems)
            return False

    def verdicts(message):
        return [verdict(message, index) for index in range(len(SELECTORS))]

    problems = io.StringIO()
    if not raw.startswith(KEY_FIELD):
        fail(f"{name}: {raw[:200]!r} does not start with the forwarded key")
    if raw.count(b"DKIM-Signature: ") != len(SELECTORS):
        fail(f"{name}: {raw[:2000]!r} has not {len(SELECTORS)} signatures")
    if not all(verdicts(raw)):
        (HOME / "refused.eml").write_bytes(raw)
        fail(f"{name}: dkimpy refuses a signature, see {HOME}/refused.eml: {problems.getvalue()}")
    head, separator, body = raw.partition(b"\r\n\r\n")
    if any(verdicts(head + separator + b"!" + body)):
        fail(f"{name}: dkimpy takes another body for the one that was signed")
    if any(verdicts(b"Subject: other\r\n" + raw)):
        fail(f"{name}: dkimpy takes a message with one Subject more for the one that was signed")


def main():
    for selector, kind in SELECTORS.items():
        made = ["openssl", "genpkey", "-algorithm", *kind, "-out", str(HOME / f"{selector}.pem")]
        subprocess.run(made, capture_output=True, check=True)
    records = {f"{selector}._domainkey.{domain}": published(selector) for selector in SELECTORS for domain in DOMAINS}
    next_hop = NextHop()
    next_hop.start()
    relay, port = start_relay(next_hop)
    for name, message in MESSAGES.items():
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
            client.sendmail("shop@shop.example", ["b@c.example"], message, mail_options=["BODY=8BITMIME"])
        judge(name, next_hop.next_message(), records)
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.sendmail("shop@shop.example", ["gone@c.example"], MESSAGES["plain"])
    bounce = next_hop.next_message()
    if b"d=relay.example;" not in bounce or b"Auto-Submitted: auto-replied" not in bounce:
        fail(f"the bounce is not signed by the relay: {bounce[:2000]!r}")
    judge("a bounce", bounce, records)
    relay.stop()
    print(f"dkim: {len(MESSAGES)} messages and a bounce, each with {len(SELECTORS)} signatures that dkimpy takes")


main()
