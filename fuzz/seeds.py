#!/usr/bin/env python3
"""Writes inputs to begin with: fuzz/seeds.py DIRECTORY

They come from what the tests have already: the dialogues, the retries of real libraries, the configuration files. For
targets that read their input as choices there are a few hundred octets by chance, always the same.
"""
import glob
import os
import random
import re
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
OUT = sys.argv[1]
ESCAPES = {"r": b"\r", "n": b"\n", "0": b"\0", "t": b"\t", "\\": b"\\"}


def seed(target, name, octets):
    os.makedirs(os.path.join(OUT, target), exist_ok=True)
    with open(os.path.join(OUT, target, name), "wb") as file:
        file.write(octets)


def octets(text):
    """As in tests/dialogs.rs; repetitions are cut short."""
    text = re.sub(r"\{(.)\*(\d+)\}", lambda m: m[1] * min(int(m[2]), 40), text)
    out, at = b"", 0
    while at < len(text):
        if text[at] == "\\" and text[at + 1] == "x":
            out += bytes([int(text[at + 2:at + 4], 16)])
            at += 4
        elif text[at] == "\\":
            out += ESCAPES[text[at + 1]]
            at += 2
        else:
            out += text[at].encode()
            at += 1
    return out


def dialogues():
    for path in sorted(glob.glob(os.path.join(ROOT, "tests/dialogs/*.smtp"))):
        name = os.path.basename(path).removesuffix(".smtp")
        sent = b""
        with open(path, encoding="utf-8") as file:
            for line in file.read().split("\n"):
                if line.startswith("C: "):
                    sent += octets(line[3:]) + b"\r\n"
                elif line.startswith("C> "):
                    sent += octets(line[3:])
        # Settings (with STARTTLS, AUTH optional), loopback or TLS, pieces of 1 and of 3 octets.
        seed("session", name, bytes([0, 0, 0, 1, 1, 0, 1, 0, 2, 0, 2]) + sent)
        seed("session", name + "-strict", bytes([1, 1, 1, 0, 2, 1, 0, 1, 1, 6]) + sent)
        seed("data", name, bytes([0, 0, 1, 3]) + sent[sent.find(b"DATA\r\n") + 6:])
        seed("data", name + "-chunks", bytes([1, 0, 1, 1]) + sent[:400])
        seed("data", name + "-written", bytes([2, 0, 1, 2, 0]) + sent)
        for number, line in enumerate(sent.split(b"\r\n")):
            if line[:4] in (b"MAIL", b"RCPT", b"BDAT", b"AUTH", b"EHLO"):
                seed("command", f"{name}-{number}", line)


def lines():
    """Whole lines by their octets, as the target of sessions has them: AUTH in front of a message, and of STARTTLS."""
    for name, sent in ("auth", b"\xf5\xfa\xf6\xf7\xf8"), ("starttls", b"\xf5\xfa\xfc\xf5\xf6\xf7\xf9"):
        seed("session", name, bytes([0, 0, 0, 1, 1, 0, 1, 0, 2, 0, 2]) + sent)


def limits():
    """Lengths at their limit and one beyond."""
    for over in range(2):
        for name, line in (
            ("envid", b"MAIL FROM:<a@example.com> ENVID=" + b"e" * (100 + over)),
            ("auth", b"MAIL FROM:<a@example.com> AUTH=" + b"a" * (500 + over)),
            ("size", b"MAIL FROM:<> SIZE=" + b"1" * (20 + over)),
            ("holdfor", b"MAIL FROM:<> HOLDFOR=" + b"1" * (9 + over)),
            ("orcpt", b"RCPT TO:<b@example.com> ORCPT=rfc822;" + b"o" * (493 + over)),
            ("ehlo", b"EHLO " + b"h" * (255 + over)),
        ):
            seed("command", f"{name}-{over}", line)


def messages():
    for path in glob.glob(os.path.join(ROOT, "tests/fixtures/retries/*.eml")):
        with open(path, "rb") as file:
            message = file.read().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        seed("header", os.path.basename(path), message[:1500])
    seed("header", "folded", b"X-Idempotency-Key:\r\n =?utf-8?q?a=20b?=\r\n\tc\r\nx : y\r\n\r\nbody")
    seed("header", "twice", b"x-idempotency-key: a\r\nX-IDEMPOTENCY-KEY : a\r\nReturn-Path: <>\r\nno field\r\n")


def configurations():
    for path in glob.glob(os.path.join(ROOT, "config/*.toml")):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        seed("config", os.path.basename(path), b"\0" + text.encode()[:8000])
        # What is only shown there, section by section.
        shown = re.sub(r"^# ?(\[|[a-z_]+ = )", r"\1", text, flags=re.M)
        for number, part in enumerate(re.split(r"\n(?=\[)", shown)):
            seed("config", f"{os.path.basename(path)}-{number}", b"\0" + part.encode()[:2000])


def samples():
    for number, text in enumerate(['a@b.example', '"a b\\" >"@[IPv6:2001:db8::1]', "postmaster", "用户@例子.example",
                                   "a@[192.0.2.1]> x", "IPv6:2001:db8::1", "BÜCHER.example", "x@A.B-c.D_e"]):
        seed("address", str(number), text.encode())
    replies = b"220 a ESMTP\r\n250-a\r\n250-PIPELINING\r\n250 SIZE 100\r\n", b"550-5.1.1 no\r\n550 5.1.1 such\r\n", b"421\r\n"
    for number, reply in enumerate(replies):
        seed("reply", str(number), b"\x02\0\x03\0" + reply)
        seed("reply", f"{number}-many", b"\0\xc7" + reply)
    v2 = b"\r\n\r\n\0\r\nQUIT\n"
    seed("proxy_protocol", "1", b"PROXY TCP4 192.0.2.1 192.0.2.2 1025 25\r\nEHLO")
    seed("proxy_protocol", "1-6", b"PROXY TCP6 2001:db8::1 ::1 1025 25\r\n")
    seed("proxy_protocol", "1-unknown", b"PROXY UNKNOWN ffff\r\n")
    seed("proxy_protocol", "2", v2 + b"\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x04\x01\0\x19")
    seed("proxy_protocol", "2-6", v2 + b"\x21\x21\0\x24" + bytes(range(36)))
    seed("proxy_protocol", "2-local", v2 + b"\x20\0\0\x03abc")


def chances():
    chance = random.Random(5)
    for target, count, most in (("fingerprint", 40, 900), ("recovery", 40, 400), ("history", 30, 200)):
        for number in range(count):
            length = chance.randrange(20, most)
            # Small numbers mostly: they are lengths and kinds.
            values = [chance.choice((chance.randrange(12), chance.randrange(256))) for _ in range(length)]
            seed(target, str(number), bytes(values))


dialogues()
lines()
limits()
messages()
configurations()
samples()
chances()
