"""Keeps the README honest: readme.py PROGRAM.

- every file of examples/ but send.py stands in it word for word;
- every file that it, SECURITY.md or docs/ links to exists, every test that SECURITY.md names too, and
  docs/dependencies.md has every crate that Cargo.toml names, with its
  licence;
- its TOML passes `check-config`, as do that of docs/providers.md and the files of config/; a block that is only a part
  stands where the route of the README's first one is;
- its console blocks, one after the other, give what they say, against `PROGRAM serve --config config/local.toml`, with
  PROGRAM as `target/release/oncemail`. In them a queue id
  stands for whatever id comes, the same one for the same one, and `…` for any text, alone on a line for any lines.
"""

import atexit
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = str(Path(sys.argv[1]).resolve())
README = (ROOT / "README.md").read_text()
QUEUE_ID = re.compile(r"\b01[0-9A-HJKMNP-TV-Z]{24}\b")
PATIENCE = 60  # seconds
faults = []


def blocks(language, page=README):
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.M | re.S)


def check_examples():
    for path in sorted((ROOT / "examples").iterdir()):
        if path.name != "send.py" and path.is_file() and path.suffix != ".rs" and path.read_text() not in README:
            faults.append(f"README.md does not quote {path.name} as it is")


def check_links():
    for page in [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                faults.append(f"{page.relative_to(ROOT)} links to {target}, which is not there")


def check_named_tests():
    """A promise whose test has another name now is a promise without a test."""
    sources = [*(ROOT / "src").rglob("*.rs"), *(ROOT / "tests").rglob("*.rs")]
    there = {name for path in sources for name in re.findall(r"\bfn (\w+)\(", path.read_text())}
    named = re.findall(r"`((?:[a-z0-9]+_){3,}[a-z0-9]+)`", (ROOT / "SECURITY.md").read_text())
    if len(named) < 30:
        faults.append(f"SECURITY.md names only {len(named)} tests")
    faults.extend(f"SECURITY.md names a test {name}, which is not there" for name in named
                  if name not in there and not name.endswith("_file"))


def direct_dependencies(manifest):
    """The crates that a manifest names, with their licences."""
    metadata = json.loads(
        subprocess.run(
            ["cargo", "metadata", "--format-version", "1", "--locked", "--manifest-path", manifest],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout
    )
    packages = {package["id"]: package for package in metadata["packages"]}
    (own,) = (node for node in metadata["resolve"]["nodes"] if node["id"] == metadata["resolve"]["root"])
    return {packages[id]["name"]: packages[id]["license"] for id in own["dependencies"]}


def check_dependencies():
    page = (ROOT / "docs/dependencies.md").read_text()
    direct = direct_dependencies("Cargo.toml") | direct_dependencies("fuzz/Cargo.toml")
    # The fuzz targets' own.
    direct.pop("oncemail", None)
    rows = {row[0].strip(): row[-1].strip() for row in re.findall(r"^\| ([a-z0-9_-]+) \|(?:.*\|)? (.*) \|$", page, re.M)}
    for name, licence in direct.items():
        if rows.get(name) != licence:
            faults.append(f"docs/dependencies.md should have {name} with the licence {licence}; it has {rows.get(name)}")
    for name in rows.keys() - direct.keys():
        faults.append(f"docs/dependencies.md has {name}, no Cargo.toml has")


def check_config(name, path, environment=None):
    done = subprocess.run(
        [PROGRAM, "check-config", "--config", str(path)],
        cwd=ROOT, env=os.environ | (environment or {}), capture_output=True, text=True, timeout=PATIENCE,
    )
    if done.returncode != 0:
        faults.append(f"check-config on {name}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def check_configs(scratch):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=relay.example.com", "-keyout", str(scratch / "key.pem"), "-out", str(scratch / "fullchain.pem")],
        check=True, capture_output=True,
    )
    (scratch / "provider-password").write_text("secret\n")
    hashed = subprocess.run(
        [PROGRAM, "hash-password"], input="secret\n", capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout.strip()
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(scratch / "s1.pem")],
        check=True, capture_output=True,
    )
    texts = {}
    first = next(text for text in blocks("toml") if "[[listener]]" in text)
    surroundings, route, rest = first.partition("[[route]]")
    for name in ("README.md", "docs/providers.md"):
        for n, text in enumerate(blocks("toml", (ROOT / name).read_text()), 1):
            is_part = "[[listener]]" not in text
            own = text if "[[route]]" in text else text + route + rest
            texts[f"{name}, TOML block {n}"] = surroundings + own if is_part else text
    texts |= {f"config/{path.name}": path.read_text() for path in sorted((ROOT / "config").glob("*.toml"))}
    for n, (name, text) in enumerate(texts.items()):
        # The files that an installation would have stand in the scratch directory here.
        text = re.sub(r'"/(?:etc/oncemail|run/secrets)/(?:[^"]*/)?([^"/]+)"', rf'"{scratch}/\1"', text)
        text = text.replace("$argon2id$…", hashed)
        for missing in re.findall(rf'^[^#\n]*"{scratch}/([^"]+)"', text, re.M):
            if not (scratch / missing).exists():
                (scratch / missing).write_text("secret\n")
        path = scratch / f"{n}.toml"
        path.write_text(text)
        check_config(name, path)


def pattern(expected):
    """The expected output as a regular expression; ids become groups, `…` anything."""
    seen = {}

    def one(line):
        if line == "…":
            return r"(?:.*\n)*?"
        out, at = "", 0
        for found in QUEUE_ID.finditer(line):
            out += re.escape(line[at : found.start()])
            if found[0] in seen:
                out += f"(?P={seen[found[0]]})"
            else:
                seen[found[0]] = f"id{len(seen)}"
                out += f"(?P<{seen[found[0]]}>{QUEUE_ID.pattern})"
            at = found.end()
        return (out + re.escape(line[at:])).replace("…", ".*") + r"\n"

    return "".join(one(line) for line in expected.splitlines())


def serve(place):
    """The relay as the README starts it, once it listens; nothing when it does not."""
    child = subprocess.Popen(
        [PROGRAM, "serve", "--config", "config/local.toml"],
        cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    atexit.register(child.kill)  # on every way out; a relay left behind would keep the caller waiting
    guard = threading.Timer(PATIENCE, child.kill)
    guard.start()
    lines = []
    for line in child.stdout:
        lines.append(line)
        if "listening" in line:
            threading.Thread(target=child.stdout.read, daemon=True).start()
            guard.cancel()
            return child
    guard.cancel()
    faults.append(f"the relay ended, or was ended after {PATIENCE} s, before it was listening:\n{''.join(lines)}")
    return None


def check_session(scratch):
    place = scratch / "session"
    place.mkdir()
    # A port that is free here stands for the README's.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for name in ("config", "examples"):
        (place / name).mkdir()
        for file in (ROOT / name).iterdir():
            if file.is_file():
                (place / name / file.name).write_text(file.read_text().replace("2525", port))
    (place / "target/release").mkdir(parents=True)
    (place / "target/release/oncemail").symlink_to(PROGRAM)
    session = "".join(blocks("console"))
    steps = [step.partition("\n") for step in re.split(r"^\$ ", session, flags=re.M)[1:]]
    child = serve(place)
    if child is None:
        return
    printed = ""
    try:
        for command, _, expected in steps:
            # An id of the README stands for the one that we got.
            for sample in QUEUE_ID.findall(command):
                if ours := QUEUE_ID.search(printed):
                    command = command.replace(sample, ours[0])
            if command.startswith("ls mail"):
                await_delivery(place)
            done = subprocess.run(
                command, shell=True, cwd=place, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE,
            )
            printed += f"$ {command}\n" + done.stdout.replace("\r\n", "\n")
    finally:
        child.send_signal(signal.SIGTERM)
        code = child.wait(timeout=PATIENCE)
    if code != 0:
        faults.append(f"the relay ended with exit code {code} on SIGTERM")
    if not re.fullmatch(pattern(session), printed):
        faults.append(f"the README's session went differently:\n{printed}")


def await_delivery(place):
    """Delivery follows the reply; a person at a keyboard is slow enough, we are not."""
    wait = threading.Event()
    for _ in range(PATIENCE * 50):
        if list((place / "mail").glob("*.eml")) and list((place / "mail").glob("*.json")):
            return
        wait.wait(0.02)
    faults.append("nothing was delivered into ./mail")


def main():
    check_examples()
    check_links()
    check_named_tests()
    check_dependencies()
    with tempfile.TemporaryDirectory() as scratch:
        check_configs(Path(scratch))
        check_session(Path(scratch))
    if faults:
        sys.exit("\n".join(faults))
    print("README, links and configuration files hold")


main()
