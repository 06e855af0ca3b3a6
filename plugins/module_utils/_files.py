# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small bounded reads of files: the one place that opens what the facts are read from."""

from __future__ import annotations

import contextlib
import os
import stat

LIMIT = 1 << 20
HOPS = 8  # symbolic links followed within a foreign root, as in ELOOP but smaller


def read_text(path: str, limit: int = LIMIT) -> str | None:
    """At most C(limit) bytes of a file as text, or None when it cannot be read. Never waits for a writer.

    Files of /proc answer with what fits their own buffer, so it is read until the end or the limit.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return _drain(descriptor, limit).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _drain(descriptor: int, limit: int) -> bytes:
    parts, size = [], 0
    while size < limit:
        part = os.read(descriptor, min(65536, limit - size))
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def read_int(path: str) -> int | None:
    """The number in a one-value file, or None."""
    text = read_text(path, 64)
    try:
        return int(text) if text else None
    except ValueError:
        return None


def read_below(root: str, path: str, limit: int = 65536) -> str:
    """A regular file below C(root), which belongs to somebody else: a container may have put any link or pipe there.

    The path is walked component by component on directory descriptors and symbolic links are resolved within the
    root, as if chroot had been called: C(/etc/resolv.conf -> /etc/shadow) reads the container's file, never the host's.

    @raises OSError: it does not exist, is not a regular file, or has too many links.
    """
    pending = [part for part in path.split("/") if part]
    walked = [os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    hops = 0
    try:
        while pending:
            part = pending.pop(0)
            if part == "..":
                if len(walked) > 1:
                    os.close(walked.pop())
                continue
            if part == ".":
                continue
            target = _link(walked[-1], part)
            if target is not None:
                hops += 1
                if hops > HOPS:
                    raise OSError(f"{path}: too many symbolic links")
                if target.startswith("/"):
                    while len(walked) > 1:
                        os.close(walked.pop())
                pending[:0] = [piece for piece in target.split("/") if piece]
                continue
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            if not stat.S_ISDIR(os.stat(part, dir_fd=walked[-1], follow_symlinks=False).st_mode):
                return _regular(part, walked[-1], flags, limit)
            walked.append(os.open(part, flags | os.O_DIRECTORY, dir_fd=walked[-1]))
        raise OSError(f"{path}: is a directory")
    finally:
        for descriptor in walked:
            os.close(descriptor)


def _link(directory: int, name: str) -> str | None:
    """Target of a symbolic link, None for anything else."""
    with contextlib.suppress(OSError):
        return os.readlink(name, dir_fd=directory)
    return None


def _regular(name: str, directory: int, flags: int, limit: int) -> str:
    if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        raise OSError(f"{name}: not a regular file")  # opening a device could already have an effect
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{name}: not a regular file")
        return _drain(descriptor, limit).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
