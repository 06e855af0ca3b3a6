# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Ansible inventory of a lab: SSH through the host's network namespace, which no fault of the underlay cuts off."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .fleet import Host, Lab

DEFAULT_INTERPRETER = "/usr/bin/python3"


def ssh_options(lab: Lab, host: Host) -> list[str]:
    # nc joins the host's process namespace too: outside it, it would outlive the host and keep its network namespace
    proxy = f"nsenter --target={host.pid} --net --pid nc 127.0.0.1 22"
    return [
        f"-o ProxyCommand='{proxy}'",
        "-o StrictHostKeyChecking=no",
        f"-o UserKnownHostsFile={lab.directory}/known_hosts",
        "-o LogLevel=ERROR",
        "-o ControlMaster=auto",
        "-o ControlPersist=60s",
    ]


def text(lab: Lab) -> str:
    lines = [
        "[all:vars]",
        "ansible_user=root",
        f"ansible_ssh_private_key_file={lab.directory}/key",
        "ansible_pipelining=true",
        "ansible_ssh_retries=2",  # a connection that breaks while it is made is not what the lab is for
        "",
    ]
    groups = {
        "docker": [host for host in lab.hosts.values() if host.kind == "docker"],
        "bare": [host for host in lab.hosts.values() if host.kind == "bare"],
    }
    for group, hosts in groups.items():
        if not hosts:
            continue
        lines.append(f"[{group}]")
        for host in hosts:
            common = " ".join(ssh_options(lab, host))
            lines.append(
                f"{host.name} ansible_host={host.name}.{lab.name}"
                f" ansible_python_interpreter={host.interpreter or DEFAULT_INTERPRETER}"
                f' ansible_ssh_common_args="{common}"'
            )
        lines.append("")
    return "\n".join(lines)
