# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which system programs the lab needs, and their installation on Debian and Ubuntu.

Standard library only: ``python3 -m tests.lab.packages`` runs before there is a virtual environment.
"""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POLICY = Path("/usr/sbin/policy-rc.d")


def have(*programs: str) -> Callable[[], bool]:
    return lambda: all(shutil.which(program, path=PATH) for program in programs)


def static_busybox() -> Path | None:
    """A busybox that runs in an image without any library, or None."""
    for name in ("busybox", "busybox-static", "busybox.static"):
        found = shutil.which(name, path=PATH)
        if found and is_static(Path(found)):
            return Path(found)
    return None


def is_static(program: Path) -> bool:
    """Whether a 64-bit little-endian ELF program asks for no dynamic loader (no PT_INTERP segment)."""
    data = program.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        return False
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    return all(struct.unpack_from("<I", data, table + number * size)[0] != 3 for number in range(count))


# Debian's package: what must be there, and what for
NEEDED: dict[str, tuple[Callable[[], bool], str]] = {
    "docker.io": (have("dockerd", "containerd", "runc"), "the engine of every lab host (dockerd, containerd, runc)"),
    "iproute2": (have("ip", "bridge", "ss"), "looking at links, routes and forwarding tables (ip, bridge, ss)"),
    "iptables": (have("iptables", "iptables-legacy"), "Docker's rules and faults (iptables, iptables-legacy)"),
    "nftables": (have("nft"), "faults of packet filters (nft)"),
    "firewalld": (have("firewalld", "firewall-cmd"), "hosts whose firewall is firewalld's (they alone start it)"),
    "ufw": (have("ufw"), "hosts whose firewall is ufw's (they alone enable it)"),
    "dbus-daemon": (have("dbus-daemon"), "the bus that firewalld answers on"),
    "openssh-server": (have("sshd"), "every lab host's sshd"),
    "openssh-client": (have("ssh", "ssh-keygen"), "Ansible's way to the lab hosts (ssh, ssh-keygen)"),
    "sudo": (have("sudo"), "the way from an ordinary user to root on a lab host"),
    "netcat-openbsd": (have("nc"), "the hop from ssh into a lab host's network namespace (nc)"),
    "ethtool": (have("ethtool"), "switching offloads off on the lab's links"),
    "busybox-static": (lambda: static_busybox() is not None, "the one program in the lab's image (a static busybox)"),
    "tcpdump": (have("tcpdump"), "comparing captures"),
    "etcd-server": (have("etcd"), "a key-value store beside the Swarm (etcd)"),
    "util-linux": (have("unshare", "nsenter", "setsid"), "entering namespaces (nsenter, setsid)"),
    "procps": (have("sysctl", "ps"), "kernel parameters (sysctl)"),
    "python3": (lambda: Path("/usr/bin/python3").exists(), "the lab hosts' Python (/usr/bin/python3)"),
}


def missing() -> list[str]:
    """Debian's names of the packages whose programs are not here."""
    return [name for name, (present, _use) in NEEDED.items() if not present()]


def can_install() -> bool:
    return bool(shutil.which("apt-get", path=PATH)) and os.geteuid() == 0


@contextmanager
def no_service_starts() -> Iterator[None]:
    """Keep Debian's package scripts from starting daemons (policy-rc.d's exit 101): the lab starts its own."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def install(names: list[str]) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "--no-install-recommends", *names]
    with no_service_starts():
        if subprocess.run(command, env=environment, check=False).returncode:  # no or old lists: fetch them, once more
            subprocess.run(["apt-get", "update"], env=environment, check=True)
            subprocess.run(command, env=environment, check=True)
    if "firewalld" in names and shutil.which("systemctl", path=PATH):  # or the machine's next boot would start it
        subprocess.run(["systemctl", "disable", "--quiet", "firewalld.service"], check=False)


def explain(names: list[str]) -> str:
    lines = ["The lab needs programs that are not on this machine (Debian's package names first):"]
    lines += [f"  {name:16} {NEEDED[name][1]}" for name in names]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.lab.packages", description="Check for the lab's system packages."
    )
    parser.add_argument("--install", action="store_true", help="install what is missing (Debian and Ubuntu, as root)")
    args = parser.parse_args()
    names = missing()
    if not names:
        return 0
    print(explain(names), file=sys.stderr)
    if not args.install:
        print("Install them, or let this do it: python3 -m tests.lab.packages --install", file=sys.stderr)
        return 1
    if not can_install():
        print(
            "Please install them yourself: this is no Debian or Ubuntu with apt-get, or you are not root.",
            file=sys.stderr,
        )
        return 1
    try:
        install(names)
    except subprocess.CalledProcessError as error:
        print(f"apt-get failed ({error}); please install them yourself: {' '.join(names)}", file=sys.stderr)
        return 1
    still = missing()
    if still:
        print(explain(still), file=sys.stderr)
    return int(bool(still))


if __name__ == "__main__":
    sys.exit(main())
