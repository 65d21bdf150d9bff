"""What the image has is enough to run, as nobody in particular: tests/packages/root.py BINARY, as root.

`docker/root.sh` lays the image out; the program is started in it as an engine would with the settings of
`docker/compose.yaml`: uid 10001, no capability, no new privileges, a root that is read-only, one volume. It takes a message,
says that it is well, and stops in order. There is nothing else in the image that could be run.
"""

import ctypes
import os
import pathlib
import re
import smtplib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "common"))
from relay import PATIENCE, Relay

ROOT = pathlib.Path(__file__).resolve().parents[2]
OWNER = 10001
CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, LAST_CAPABILITY = 24, 38, 63
LIBC = ctypes.CDLL(None, use_errno=True)


def demand(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(source, target, flags):
    demand(LIBC.mount(str(source).encode(), str(target).encode(), None, flags, None))


def into(root, volume):
    """What a child does before it becomes the program."""

    def enter():
        demand(LIBC.unshare(CLONE_NEWNS))
        mount("none", "/", MS_REC | MS_PRIVATE)
        mount(root, root, MS_BIND)
        mount(root, root, MS_BIND | MS_REMOUNT | MS_RDONLY)
        mount(volume, root / "var/lib/oncemail", MS_BIND)
        os.chroot(root)
        os.chdir("/")
        for capability in range(LAST_CAPABILITY + 1):
            LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setgroups([])
        os.setgid(OWNER)
        os.setuid(OWNER)
        demand(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))

    return enter


def programs(root):
    """Whatever could be run in there, but for the libraries."""
    files = [path for path in root.rglob("*") if path.is_file() and os.access(path, os.X_OK)]
    return {str(path.relative_to(root)) for path in files if not re.search(r"\.so(\.\d+)*$", path.name)}


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    if os.geteuid() != 0:
        print("not root: the image's root is not tried")
        return
    with tempfile.TemporaryDirectory() as base:
        base = pathlib.Path(base)
        base.chmod(0o755)
        root, volume, log = base / "root", base / "volume", base / "log"
        subprocess.run([ROOT / "docker/root.sh", binary, root], check=True)
        assert programs(root) == {"usr/local/bin/oncemail"}, programs(root)
        # Which every engine puts there.
        (root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        volume.mkdir()
        os.chown(volume, OWNER, OWNER)
        environment = {
            "PATH": "/usr/local/bin",
            "ONCEMAIL__HOSTNAME": "relay.example",
            "ONCEMAIL__LISTENER__0__NAME": "in",
            "ONCEMAIL__LISTENER__0__ADDRESS": "127.0.0.1:0",
            "ONCEMAIL__LISTENER__0__TLS": "none",
            "ONCEMAIL__LISTENER__0__AUTH": "none",
            "ONCEMAIL__LIMITS__MIN_FREE": "1MB",
            "ONCEMAIL__ROUTE__0__NAME": "nowhere",
            "ONCEMAIL__ROUTE__0__TRANSPORT": "discard",
        }
        enter, program = into(root, volume), "/usr/local/bin/oncemail"
        relay = Relay([program, "serve"], log, env=environment, preexec_fn=enter)
        process = relay.process
        try:
            port = int(relay.says("listening")["address"].rpartition(":")[2])
            status = dict(re.findall(r"^(\w+):\s*(.*)$", pathlib.Path(f"/proc/{process.pid}/status").read_text(), re.M))
            assert set(status["Uid"].split()) == {str(OWNER)}, status["Uid"]
            for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(status[capabilities], 16) == 0, f"{capabilities}: {status[capabilities]}"
            assert status["NoNewPrivs"] == "1"
            # Other processes of its user may not look into it: it is not dumpable, and so not even its own uid's.
            owner = pathlib.Path(f"/proc/{process.pid}/mem").stat().st_uid
            assert owner == 0, f"its memory belongs to uid {owner}"
            with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
                client.sendmail("a@shop.example", ["b@customer.example"], "Subject: x\r\n\r\nx\r\n")
            relay.line('"outcome":"delivered"')
            subprocess.run([program, "health"], env=environment, preexec_fn=enter, check=True)
            relay.stop()
        finally:
            if process.poll() is None:
                process.kill()
    print("the image's root: one program, uid 10001, no capability, nothing writable but the volume: a message went through")


main()
