"""The bill of materials names exactly what is compiled into the program, each with its licence and checksum, and nothing of
the machine on which it was made: tests/packages/sbom.py FILE.

What it is compared with is what `cargo tree` says and, for versions and checksums, Cargo.lock itself.
"""

import json
import os
import pathlib
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def compiled():
    """(name, version) of every crate of Cargo.lock that is linked into the program here, by way of normal edges only."""
    host = next(line.split()[1] for line in subprocess.run(
        ["rustc", "-vV"], capture_output=True, text=True, check=True).stdout.splitlines() if line.startswith("host:"))
    tree = subprocess.run(
        ["cargo", "tree", "--locked", "--edges", "normal", "--target", os.environ.get("TARGET", host),
         "--prefix", "none", "--format", "{p}", "--no-dedupe"],
        cwd=ROOT, capture_output=True, text=True, check=True).stdout
    crates = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    return {(name, version.removeprefix("v")) for name, version in crates if name != "oncemail"}


def main():
    text = pathlib.Path(sys.argv[1]).read_text()
    bill = json.loads(text)
    assert bill["bomFormat"] == "CycloneDX", bill["bomFormat"]
    assert bill["metadata"]["component"]["name"] == "oncemail"
    listed = {(part["name"], part["version"]) for part in bill["components"]}
    expected = compiled()
    assert len(expected) > 100, f"cargo tree names only {len(expected)}"
    assert listed == expected, f"missing: {sorted(expected - listed)}, too many: {sorted(listed - expected)}"
    with open(ROOT / "Cargo.lock", "rb") as lock:
        locked = {(crate["name"], crate["version"]): crate.get("checksum") for crate in tomllib.load(lock)["package"]}
    for part in bill["components"]:
        sums = [entry["content"] for entry in part.get("hashes", []) if entry["alg"] == "SHA-256"]
        assert sums == [locked[part["name"], part["version"]]], f"{part['name']}: {sums}"
        assert part.get("licenses"), f"{part['name']} has no licence"
        assert part["purl"].startswith("pkg:cargo/"), part["purl"]
    known = {entry["ref"] for entry in bill["dependencies"]}
    assert all(ref in known for entry in bill["dependencies"] for ref in entry.get("dependsOn", [])), "an edge to nothing"
    for private in (str(ROOT), os.path.expanduser("~") + "/"):
        assert private not in text, f"a path of this machine is in it: {private}"
    print(f"{sys.argv[1]}: {len(listed)} crates, as in Cargo.lock")


main()
