"""Makes the bill of materials exact and the same on every machine: packaging/sbom.py TARGET <IN >OUT.

cargo-cyclonedx lists what `cargo metadata` resolves, and that has crates in it which no enabled feature compiles in (ten at
the time of writing): a scanner would raise false alarms for them. What `cargo tree` has not for this target is left out.
The directory in which it was made is left out too.
"""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def compiled(target):
    tree = subprocess.run(
        ["cargo", "tree", "--locked", "--edges", "normal", "--target", target, "--prefix", "none", "--format", "{p}"],
        cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {tuple(line.split()[:2]) for line in tree.splitlines() if line}


def main():
    text = sys.stdin.read().replace(f"path+file://{ROOT}", "path+file:///oncemail")
    bill, crates = json.loads(text), compiled(sys.argv[1])
    kept = [part for part in bill["components"] if (part["name"], f"v{part['version']}") in crates]
    gone = {part["bom-ref"] for part in bill["components"]} - {part["bom-ref"] for part in kept}
    bill["components"] = kept
    bill["dependencies"] = [
        {**entry, "dependsOn": [ref for ref in entry.get("dependsOn", []) if ref not in gone]}
        for entry in bill["dependencies"] if entry["ref"] not in gone]
    json.dump(bill, sys.stdout, indent=1)
    print()


main()
