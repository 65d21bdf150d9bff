"""The manifests of docker/ and packaging/ say what they should: strict YAML, variables that `check-config` takes, secrets
that are there, images that are named with a version, and units that are closed.

Needs PyYAML and the binary's path; the Kubernetes schemas when `kubernetes-validate` is installed, the units' exposure
where `systemd-analyze` is.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
HASH = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE"
# `systemd-analyze security`: 0 is closed, 10 is open.
MOST_EXPOSED = 1.5


class Strict(yaml.SafeLoader):
    """A key that stands twice is an error, not the later one."""


def mapping(loader, node):
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"twice: {twice}", node.start_mark)
    return loader.construct_mapping(node, deep=True)


Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)


def documents(path):
    return [document for document in yaml.load_all(path.read_text(), Strict) if document]


def secret_files(directory):
    """Every secret that a manifest may name, under its path in the container."""
    key, certificate = directory / "key.pem", directory / "fullchain.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=relay.example.com", "-keyout", key, "-out", certificate],
        check=True, capture_output=True)
    (directory / "tls.key").write_bytes(key.read_bytes())
    (directory / "tls.crt").write_bytes(certificate.read_bytes())
    (directory / "users").write_text(f"shop:{HASH}\n")
    (directory / "provider-password").write_text("not a password\n")
    (directory / "admin-token").write_text("0123456789abcdef0123456789abcdef\n")
    (directory / "prometheus-token").write_text("fedcba9876543210fedcba9876543210\n")


def check_config(binary, variables, directory, what):
    environment = {"PATH": os.environ["PATH"]}
    for name, value in variables.items():
        value = re.sub(r"^\$\{ONCEMAIL_SMARTHOST:.*\}$", "smtp+starttls://apikey@smtp.provider.example:587", str(value))
        value = re.sub(r"^/run/secrets/(?:[a-z-]+/)?([a-z.-]+)$", rf"{directory}/\1", value)
        environment[name] = value
    done = subprocess.run([binary, "check-config"], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{what}: check-config refuses its variables:\n{done.stdout}{done.stderr}")
    print(f"{what}: {len(variables)} variables are taken")


def check_compose(binary, directory):
    (compose,) = documents(ROOT / "docker/compose.yaml")
    used_volumes = set()
    for name, service in compose["services"].items():
        for secret in service.get("secrets", []):
            source = secret["source"] if isinstance(secret, dict) else secret
            assert source in compose["secrets"], f"{name}: no secret {source}"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / "docker" / source).exists(), f"{name}: no {source}"
            else:
                used_volumes.add(source)
        assert "build" in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"]), f"{name}: no version"
    assert used_volumes == set(compose["volumes"]), used_volumes
    check_config(binary, compose["services"]["oncemail"]["environment"], directory, "docker/compose.yaml")


def check_kubernetes(binary, directory):
    files = sorted((ROOT / "packaging/kubernetes").glob("*.yaml"))
    kinds = {document["kind"]: document for path in files for document in documents(path)}
    assert {"StatefulSet", "Service", "Secret", "PodDisruptionBudget", "NetworkPolicy"} <= set(kinds), kinds.keys()
    stateful = kinds["StatefulSet"]["spec"]
    assert stateful["replicas"] == 1
    pod = stateful["template"]["spec"]
    (container,) = pod["containers"]
    for probe, path in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]:
        assert container[probe]["httpGet"]["path"] == path
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in kinds["Service"]["spec"]["ports"]} == ports
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    named = {pathlib.Path(value).name for value in variables.values() if "/run/secrets/oncemail/" in value}
    assert named == set(kinds["Secret"]["stringData"]), named
    check_config(binary, variables, directory, "packaging/kubernetes")
    validate = shutil.which("kubernetes-validate")
    if validate:
        subprocess.run([validate, "--strict", *files], check=True)
    else:
        print("kubernetes-validate is not here: the schemas are not looked at")


def check_units():
    if not shutil.which("systemd-analyze"):
        print("systemd-analyze is not here: the unit is not looked at")
        return
    unit = ROOT / "packaging/systemd/oncemail.service"
    done = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--no-pager", unit],
                          capture_output=True, text=True)
    exposure = float(re.search(r"exposure level for \S+: ([\d.]+)", done.stdout).group(1))
    assert exposure <= MOST_EXPOSED, f"exposure {exposure}"
    text = unit.read_text()
    for line in ("NoNewPrivileges=yes", "UMask=0077", "StateDirectoryMode=0700", "LimitCORE=0", "ProtectSystem=strict",
                 "MemoryDenyWriteExecute=yes", "SystemCallFilter=@system-service"):
        assert f"\n{line}\n" in text, f"no {line}"
    print(f"{unit.name}: exposure {exposure}, of {MOST_EXPOSED} at most")


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as directory:
        secret_files(pathlib.Path(directory))
        check_compose(binary, directory)
        check_kubernetes(binary, directory)
    check_units()


main()
