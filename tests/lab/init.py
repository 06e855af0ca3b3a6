# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The first process of a lab host: everything the host is lives exactly as long as this process.

Run as ``python3 -I -S init.py CONFIG.json REPORT_FD`` by the supervisor, with the machine's own Python (standard
library only). Every namespace, mount and process of the host hangs on the process started here and on nothing else:
no namespace is bound to a file and no mount is made in the machine's own mount namespace, so the kernel itself clears
a host away when it dies.

On REBOOT, sent from outside, it does to the host what a power cycle does: every other process, everything mounted
since, /run, /tmp and the network namespace with all that was in it are gone; what is on disk is there. It is done when
its IPC namespace is another one. Booting is the lab's business (boot.py).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
MS_MOVE = 0x2000
PR_SET_PDEATHSIG = 1
REBOOT = signal.SIGUSR1
MEMORY = {"run": "mode=755", "tmp": "mode=1777", "dev/shm": "mode=1777"}
ENGINE_DATA = ("var/lib/docker", "var/lib/containerd")
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "ppc64le": 203, "s390x": 217, "riscv64": 41}

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raise OSError with the errno of the C library call that returned ``result``."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: Path | str, fstype: str, flags: int = 0, data: str = "") -> None:
    check(libc.mount(source.encode(), str(target).encode(), fstype.encode(), flags, data.encode()), f"mount {target}")


def die_with(parent: int) -> None:
    """Have the kernel kill this process together with its parent; leave at once if the parent is gone already."""
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
    if os.getppid() != parent:
        os._exit(1)


def build_root(base: Path, size: str, lower: str) -> Path:
    """Stack an overlayfs over a root tree; return where it is mounted. The writable layer is memory."""
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    mount("tmpfs", base, "tmpfs", 0, f"mode=755,size={size}")
    for name in ("upper", "work", "root"):
        (base / name).mkdir()
    os.open(base / "upper", os.O_RDONLY | os.O_DIRECTORY)  # kept open: how the lab looks into the layer later
    root = base / "root"
    mount("overlay", root, "overlay", 0, f"lowerdir={lower},upperdir={base}/upper,workdir={base}/work")
    mount("proc", root / "proc", "proc")
    mount_sys(root / "sys")
    mount("/dev", root / "dev", "none", MS_BIND | MS_REC)
    for name in ENGINE_DATA:  # what the machine's own engine keeps there is none of the host's business
        (root / name).mkdir(parents=True, exist_ok=True)
        mount("tmpfs", root / name, "tmpfs", 0, f"mode=711,size={size}")
    for name, mode in MEMORY.items():
        mount("tmpfs", root / name, "tmpfs", MS_NOSUID | MS_NODEV, mode)
    return root


def mount_sys(target: Path) -> None:
    """A sysfs shows the network namespace that mounted it."""
    mount("sysfs", target, "sysfs")
    mount("/sys/fs/cgroup", target / "fs/cgroup", "none", MS_BIND | MS_REC)
    try:
        mount("tracefs", target / "kernel/tracing", "tracefs")
    except OSError:
        pass  # a kernel without tracing: the host simply has none either


def enter_root(root: Path) -> None:
    os.chdir(root)
    check(libc.syscall(SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def mounts() -> list[tuple[str, str]]:
    """Number and place of every mount, in the order they were made."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    fields = [line.split(" ") for line in lines]
    return [(entry[0], entry[4].encode().decode("unicode_escape")) for entry in fields]


def unmount(place: str) -> None:
    libc.umount2(place.encode(), MNT_DETACH)


def reap() -> None:
    """What process 1 owes its namespace: collect the children it inherits."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def kill_all_others(seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        reap()
        left = [entry for entry in os.listdir("/proc") if entry.isdigit() and entry != "1"]
        if not left:
            return
        if time.monotonic() > deadline:
            raise OSError(f"processes {', '.join(left)} do not die")
        time.sleep(0.01)


def power_cycle(first_mounts: set[str]) -> None:
    kill_all_others()
    for number, place in reversed(mounts()):
        if number not in first_mounts:
            unmount(place)
    check(libc.unshare(CLONE_NEWNET), "unshare")
    for name, mode in MEMORY.items():
        unmount(f"/{name}")
        mount("tmpfs", f"/{name}", "tmpfs", MS_NOSUID | MS_NODEV, mode)
    fresh = Path("/tmp/sys")
    fresh.mkdir()
    mount_sys(fresh)  # while the control groups can still be bound from the old one
    unmount("/sys")
    mount(str(fresh), "/sys", "none", MS_MOVE)
    fresh.rmdir()
    socket.sethostname(Path("/etc/hostname").read_text().strip())
    check(libc.unshare(CLONE_NEWIPC), "unshare")


def run_for_ever() -> NoReturn:
    first_mounts = {number for number, _place in mounts()}
    while True:
        received = signal.sigwaitinfo({signal.SIGCHLD, REBOOT})
        reap()
        if received.si_signo == REBOOT and received.si_pid == 0:  # 0: from outside this pid namespace
            power_cycle(first_mounts)
            first_mounts = {number for number, _place in mounts()}


def be_host(config: dict[str, Any], report: int, alive: int) -> NoReturn:
    die_with(0)  # the parent is outside this pid namespace, so getppid() is 0 whether or not it still lives …
    os.set_blocking(alive, False)
    try:
        if os.read(alive, 1) == b"":  # … but its end of this pipe closes with it
            os._exit(1)
    except BlockingIOError:
        pass
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, REBOOT})
    try:
        root = build_root(Path(config["base"]), config["size"], config["lower"])
        socket.sethostname(config["name"])
        enter_root(root)
    except OSError as error:
        os.write(report, f"error {error}\n".encode())
        os._exit(1)
    os.write(report, b"ready\n")
    os.close(report)
    run_for_ever()


def main() -> int:
    config = json.loads(Path(sys.argv[1]).read_text())
    report = int(sys.argv[2])
    die_with(config["supervisor"])
    try:
        check(libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET), "unshare")
    except OSError as error:
        os.write(report, f"error {error}\n".encode())
        return 1
    alive, alive_writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(alive_writer)
        be_host(config, report, alive)
    os.close(alive)
    os.write(report, f"pid {child}\n".encode())
    os.close(report)
    os.waitpid(child, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
