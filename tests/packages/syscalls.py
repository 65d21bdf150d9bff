"""The system calls that the unit file allows are enough, and are all that is made: tests/packages/syscalls.py BINARY [MESSAGES].

Two relays, one of which relays to the other, run under a seccomp filter made of the unit's SystemCallFilter=, in which any
other call kills the process at once, where the unit only has it fail. They take mail over STARTTLS and in plain text,
answer replays, the API and the command line, read their configuration again, and stop. Then the same under strace, which
shows what they called, which sockets they asked for, and that no memory was both writable and executable.

Needs systemd-analyze (what is in a set), the kernel's headers (the numbers), openssl, and strace for the second part.
"""

import collections
import concurrent.futures
import ctypes
import os
import pathlib
import platform
import re
import shutil
import signal
import smtplib
import ssl
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "common"))
from relay import PATIENCE, Ended, Relay

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNIT = ROOT / "packaging/systemd/oncemail.service"
# The number of each in a filter, and the header with its calls.
ARCHITECTURES = {"x86_64": (0xC000003E, "{}/asm/unistd_64.h"), "aarch64": (0xC00000B7, "asm-generic/unistd.h")}
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
PER_CONNECTION = 1000  # messages that a relay takes over one connection


def sets():
    """Every set of systemd's, as the names in it."""
    listed = subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager"], check=True, capture_output=True, text=True)
    found, name = collections.defaultdict(list), None
    for line in listed.stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            name = word
        elif name and word and not word.startswith("#"):
            found[name].append(word)
    return found


def expanded(word, found):
    if not word.startswith("@"):
        return {word}
    return set().union(*(expanded(part, found) for part in found[word]))


def allowed_names():
    """What the unit allows, in the order in which it says so (systemd.exec(5)); @default is always in it."""
    found = sets()
    names = expanded("@default", found)
    for line in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE):
        removed = line.startswith("~")
        for word in line.removeprefix("~").split():
            names = names - expanded(word, found) if removed else names | expanded(word, found)
    return names


def numbers():
    """Names and numbers, as this system's headers have them."""
    _, header = ARCHITECTURES[platform.machine()]
    include = subprocess.run(["cc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
    text = pathlib.Path("/usr/include", header.format(include)).read_text()
    return {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\s", text)}


def program(names):
    """BPF: the right architecture, and one of these calls, or the end of the process."""
    known = numbers()
    architecture, _ = ARCHITECTURES[platform.machine()]
    steps = [(LOAD, 0, 0, 4), (JUMP_IF_EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for number in sorted(known[name] for name in names if name in known):
        steps += [(JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    steps.append((RETURN, 0, 0, KILL))
    return steps


class Step(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("if_true", ctypes.c_ubyte), ("if_false", ctypes.c_ubyte), ("k", ctypes.c_uint)]


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("steps", ctypes.POINTER(Step))]


def under(steps):
    """What a child does before it becomes the program."""
    array = (Step * len(steps))(*steps)
    filter_program = Program(len(steps), array)
    libc = ctypes.CDLL(None, use_errno=True)

    def enter():
        if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            os._exit(99)
        if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter_program), 0, 0) != 0:
            os._exit(98)

    return enter


class Confined(Relay):
    """A relay; `prefix` stands before its command line."""

    def __init__(self, binary, directory, config, enter=None, prefix=()):
        directory.mkdir()
        self.binary, self.config = binary, directory / "oncemail.toml"
        self.config.write_text(config)
        super().__init__([*prefix, binary, "serve", "--config", self.config], directory / "log", preexec_fn=enter)
        self.enter, self.port = enter, None

    def listening(self):
        self.port = int(self.says("listening")["address"].rpartition(":")[2])
        return self.port

    def ask(self, *arguments):
        done = subprocess.run([self.binary, *arguments, "--config", self.config],
                              capture_output=True, text=True, preexec_fn=self.enter)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"

    def stop(self):
        target = self.process.pid
        if self.process.args[0] == "strace":
            target = int(pathlib.Path(f"/proc/{target}/task/{target}/children").read_text().split()[0])
        os.kill(target, signal.SIGTERM)
        self.ended_well()


def certificate(directory):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
         "-keyout", directory / "key.pem", "-out", directory / "certificate.pem"],
        check=True, capture_output=True)


def config(directory, base, route, hash_):
    return f"""hostname = "relay.example"
data_dir = "{directory}/var"
[log]
format = "json"
[limits]
min_free = "1MB"
messages_per_connection = {PER_CONNECTION}
[tls]
certificate_file = "{base}/certificate.pem"
key_file = "{base}/key.pem"
[[user]]
name = "shop"
password_hash = "{hash_}"
[[listener]]
name = "in"
address = "127.0.0.1:0"
tls = "starttls"
auth = "optional"
[admin]
address = "127.0.0.1:0"
[events]
file = "{directory}/events.jsonl"
{route}
"""


def send(port, messages, with_tls):
    # As many over one connection as a relay takes, twice.
    for first in range(0, messages, PER_CONNECTION // 2):
        client = smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE)
        if with_tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            client.starttls(context=context)
        client.login("shop", "not a secret")
        for number in range(first, min(first + PER_CONNECTION // 2, messages)):
            # Each one twice: the second time is a replay.
            text = f"Subject: {number}\r\nX-Idempotency-Key: {with_tls}-{number}\r\n\r\n" + "text\r\n" * 200
            for _ in range(2):
                client.sendmail("a@shop.example", ["b@customer.example"], text)
        client.quit()


def day(binary, base, messages, enter=None, prefixes=((), ())):
    """A day in the life of two relays."""
    hash_ = subprocess.run([binary, "hash-password"], input="not a secret\n", capture_output=True, text=True,
                           check=True).stdout.strip()
    certificate(base)
    discard = '[[route]]\nname = "nowhere"\ntransport = "discard"'
    last = Confined(binary, base / "last", config(base / "last", base, discard, hash_), enter, prefixes[0])
    onward = (f'[[route]]\nname = "onward"\ntransport = "smarthost"\nhosts = ["localhost:{last.listening()}"]\n'
              f'ca_file = "{base}/certificate.pem"\nusername = "shop"\npassword = "not a secret"\n')
    first = Confined(binary, base / "first", config(base / "first", base, onward, hash_), enter, prefixes[1])
    try:
        first.listening()
        with concurrent.futures.ThreadPoolExecutor() as clients:
            list(clients.map(lambda with_tls: send(first.port, messages, with_tls), (False, True)))
        for relay in (first, last):
            for _ in range(2 * messages):
                relay.line('"outcome":"delivered"')
        for arguments in (["health"], ["status"], ["queue", "list"], ["destinations"], ["reload"]):
            first.ask(*arguments)
        first.says("the configuration was read again")
        for relay in (first, last):
            relay.stop()
    finally:
        for relay in (first, last):
            if relay.process.poll() is None:
                relay.process.kill()


def check_filter(binary, names, messages):
    with tempfile.TemporaryDirectory() as base:
        day(binary, pathlib.Path(base), messages, under(program(names)))
    print(f"{2 * messages} messages, each twice, with {len(names)} system calls allowed and death for any other: delivered")
    # That the filter does anything: without what makes a commit durable nobody gets far.
    try:
        with tempfile.TemporaryDirectory() as base:
            day(binary, pathlib.Path(base), 1, under(program(names - {"fdatasync"})))
    except Ended as ended:
        assert ended.args[0] == -signal.SIGSYS, ended
        print("without fdatasync: killed at once, as it should be")
    else:
        sys.exit("a filter without fdatasync let a commit pass: it is not in force")


def check_trace(binary, names, messages):
    if not shutil.which("strace"):
        print("strace is not here: what is called is not shown")
        return
    with tempfile.TemporaryDirectory() as base:
        base = pathlib.Path(base)
        prefixes = [["strace", "-f", "-qq", "-s", "0", "-o", str(base / f"trace-{name}")] for name in ("last", "first")]
        day(binary, base, messages, prefixes=prefixes)
        lines = [line for path in base.glob("trace-*") for line in path.read_text().splitlines()]
    counts = collections.Counter(
        match[1] for line in lines if (match := re.match(r"\d+\s+(\w+)\(", line)))
    others = set(counts) - names
    assert not others, f"called, and not allowed by the unit: {others}"
    families = {match[1] for line in lines if (match := re.search(r"\bsocket\((AF_\w+)", line))}
    permitted = set(re.search(r"^RestrictAddressFamilies=(.*)$", UNIT.read_text(), re.MULTILINE)[1].split())
    assert families <= permitted, f"sockets of {families - permitted}"
    mapped = [line for line in lines if re.search(r"\b(mmap|mprotect)\(.*PROT_WRITE\|PROT_EXEC", line)]
    assert not mapped, f"writable and executable: {mapped[0]}"
    print(f"{len(counts)} different system calls: {', '.join(sorted(counts))}")
    print(f"sockets: {', '.join(sorted(families))}; no memory was writable and executable")


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    messages = int(sys.argv[2]) if len(sys.argv) > 2 else 25
    if not shutil.which("systemd-analyze"):
        print("systemd-analyze is not here: the filter is not tried")
        return
    names = allowed_names()
    check_filter(binary, names, messages)
    check_trace(binary, names, messages)


main()
