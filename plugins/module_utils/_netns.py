# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find every network namespace of a host and run inside one, creating nothing.

A namespace is opened by file descriptor, read-only, and the descriptor is checked to be a network namespace before
setns(2): helpers that open with O_CREAT leave a file, and some of them a mount, where a path has just vanished.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703
OWN = "/proc/thread-self/ns/net"
DOCKER_DIR = "/run/docker/netns"
NAMED_DIR = "/run/netns"
_OVERLAY = re.compile(r"^\d+-[0-9a-z]{10}$")
_LB = re.compile(r"^lb_[0-9a-z]{9,}$")
_SANDBOX = re.compile(r"^[0-9a-f]{12}$")
_CONTAINER_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_NS_MOUNT = re.compile(r"^\S+ \S+ (\d+):(\d+) net:\[(\d+)\] (\S+) ")


class StrandedError(Exception):
    """The way back into the own namespace failed. Not an OSError: reading on would book everything wrongly."""


@dataclass
class Namespace:
    """One network namespace: identity, where it can be opened, and what its name tells about it."""

    key: str  # inode in nsfs, as text; for a path that is no namespace the path itself
    kind: str  # host | container | overlay | ingress | lb | other
    path: str
    device: int = 0
    pid: int | None = None  # lowest process inside, when there is one
    container: str | None = None
    network_prefix: str | None = None  # the part of a network id that Docker puts into the name
    error: str | None = None


def classify(name: str, directory: str = DOCKER_DIR) -> tuple[str, str | None]:
    """(kind, network id prefix) that a namespace's file name tells: C(1-x3k9o2mzq1) is an overlay of x3k9o2mzq1."""
    if directory == DOCKER_DIR:
        if name == "ingress_sbox":
            return "ingress", None
        if _OVERLAY.match(name):
            return "overlay", name.split("-", 1)[1]
        if _LB.match(name):
            return "lb", name[3:]
        if _SANDBOX.match(name):
            return "container", None
    elif name.startswith("cni-"):
        return "container", None
    return "other", None


def open_namespace(path: str) -> int:
    """A file descriptor of the namespace at C(path).

    @raises OSError: it cannot be opened, or is not a network namespace (a stale, empty file).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        kind = fcntl.ioctl(descriptor, NS_GET_NSTYPE)
    except OSError:
        kind = None
    if kind != CLONE_NEWNET:
        os.close(descriptor)
        raise OSError(f"{path} is not a network namespace")
    return descriptor


def setns(descriptor: int) -> None:
    """Move the calling thread into the namespace. ctypes, because os.setns came with Python 3.12.

    @raises OSError: with the errno of setns(2), EPERM without CAP_SYS_ADMIN.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(ctypes.c_int(descriptor), ctypes.c_int(CLONE_NEWNET)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


@contextlib.contextmanager
def inside(path: str | None) -> Iterator[None]:
    """Run the body in the namespace at C(path); None is the namespace the caller is in.

    @raises OSError: it cannot be opened or entered; the body did not run.
    @raises StrandedError: the way back failed.
    """
    if path is None:
        yield
        return
    target = open_namespace(path)
    try:
        home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        os.close(target)
        raise
    try:
        setns(target)
        try:
            yield
        finally:
            try:
                setns(home)
            except OSError as exc:
                raise StrandedError(f"cannot return from {path}: {exc}") from exc
    finally:
        os.close(target)
        os.close(home)


def identity(path: str) -> tuple[int, int]:
    """(device, inode) of what is at C(path): the identity of a namespace, without opening it."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _bind_mounts(mountinfo: str) -> list[str]:
    """Mount points of network namespaces wherever they are (C(ip netns), other engines' run directories)."""
    points = []
    for line in mountinfo.splitlines():
        match = _NS_MOUNT.match(line)
        if match:
            points.append(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal.group(1), 8)), match.group(4)))
    return points


def _candidates(proc: str, missing: list[dict[str, str]]) -> Iterator[tuple[str, str, str, bool]]:
    """(directory, name, path, listed) of every place that may hold a network namespace under a file name.

    A listed one stands in a directory that is for namespaces; a mount point found elsewhere may be hidden or deleted.
    """
    seen = set()
    for directory in (DOCKER_DIR, NAMED_DIR, "/var/run/docker/netns", "/var/run/netns"):
        real = os.path.realpath(directory)
        if real in seen:
            continue
        seen.add(real)
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            continue
        except OSError as exc:
            missing.append({"section": "netns", "what": directory, "why": exc.strerror or str(exc)})
            continue
        kind_of = DOCKER_DIR if directory.endswith("docker/netns") else NAMED_DIR
        for name in names:
            yield kind_of, name, os.path.join(directory, name), True
    try:
        with open(f"{proc}/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
            points = _bind_mounts(stream.read())
    except OSError:
        points = []
    for path in points:
        kind_of = DOCKER_DIR if os.path.dirname(path).endswith("docker/netns") else NAMED_DIR
        yield kind_of, os.path.basename(path), path, False


def container_id(pid: int, proc: str = "/proc") -> str | None:
    """The 64 hexadecimal digits of a container in a process's control group path, if it is in one."""
    try:
        with open(f"{proc}/{pid}/cgroup", encoding="utf-8", errors="replace") as stream:
            match = _CONTAINER_ID.search(stream.read(65536))
    except OSError:
        return None
    return match.group() if match else None


def _daemon_root(proc: str, pid_files: tuple[str, ...] = ("/run/docker.pid", "/var/run/docker.pid")) -> str | None:
    """Root of the engine as it sees it: a unit with private mounts keeps its namespace files to itself."""
    for path in pid_files:
        try:
            with open(path, encoding="ascii") as stream:
                return f"{proc}/{int(stream.read(32))}/root"
        except (OSError, ValueError):
            continue
    return None


def enumerate_namespaces(proc: str = "/proc") -> tuple[list[Namespace], list[dict[str, str]]]:
    """Every network namespace that is bound to a file or inhabited by a process; the caller's own is first, C(host).

    @returns: (namespaces, missing). A file that should be a namespace and is none becomes a record with C(error).
    """
    missing: list[dict[str, str]] = []
    own_device, own_inode = identity(f"{proc}/self/ns/net")
    host = Namespace(str(own_inode), "host", f"{proc}/self/ns/net", own_device, os.getpid())
    found = {(own_device, own_inode): host}
    broken: dict[str, Namespace] = {}
    daemon_root = _daemon_root(proc)
    for directory, name, place, listed in _candidates(proc, missing):
        kind, prefix = classify(name, directory)
        key, path, error = _identify(place, own_device, daemon_root)
        if key is None and listed:
            broken.setdefault(path, Namespace(path, kind, path, network_prefix=prefix, error=error))
        elif key is not None and key not in found:
            found[key] = Namespace(str(key[1]), kind, path, key[0], network_prefix=prefix)
        elif key is not None and found[key].kind == "other":
            found[key].kind, found[key].network_prefix = kind, prefix
    _add_processes(found, proc, missing)
    return list(found.values()) + list(broken.values()), missing


def _identify(path: str, ns_device: int, daemon_root: str | None) -> tuple[tuple[int, int] | None, str, str | None]:
    """((device, inode), path to open, None), or (None, path, why it is no namespace)."""
    try:
        key = identity(path)
    except OSError as exc:
        return None, path, exc.strerror or str(exc)
    if key[0] == ns_device:
        return key, path, None
    if daemon_root:
        with contextlib.suppress(OSError):
            key = identity(daemon_root + path)
            if key[0] == ns_device:
                return key, daemon_root + path, None
    return None, path, "not a namespace: nothing is mounted on this file (left over by an engine that died?)"


def _add_processes(found: dict[tuple[int, int], Namespace], proc: str, missing: list[dict[str, str]]) -> None:
    """Namespaces of processes; the lowest pid inside stands for it and tells the container."""
    denied = 0
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit()):
        path = f"{proc}/{pid}/ns/net"
        try:
            key = identity(path)
        except PermissionError:
            denied += 1
            continue
        except OSError:
            continue  # a kernel thread's, or it ended between the two reads
        namespace = found.get(key)
        if namespace is None:
            namespace = found[key] = Namespace(str(key[1]), "other", path, key[0])
        if namespace.pid is None:
            namespace.pid = pid
            namespace.container = container_id(pid, proc)
            if namespace.container and namespace.kind == "other":
                namespace.kind = "container"
    if denied:
        why = "not root" if os.geteuid() else "no CAP_SYS_PTRACE over them"
        why = f"permission denied for {denied} processes: {why}"
        missing.append({"section": "netns", "what": "/proc/*/ns/net", "why": why})
