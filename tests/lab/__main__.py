# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line: python -m tests.lab."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from . import state
from .fleet import HOST_PATH, Lab, require_root, take_down


def by_host(items: list[str]) -> dict[str, str]:
    wrong = [item for item in items if "=" not in item]
    if wrong:
        raise state.LabError(f"{wrong[0]!r} should be HOST=PATH")
    return dict(item.split("=", 1) for item in items)


def command_up(args: argparse.Namespace) -> int:
    begun = time.monotonic()

    def progress(text: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {text}", file=sys.stderr)

    lab = Lab.up(
        args.name,
        args.hosts,
        args.managers,
        bare=args.bare,
        service=args.service,
        interpreters=by_host(args.interpreter),
        roots=by_host(args.root),
        keep=True,
        progress=progress,
    )
    progress(f"lab {lab.name!r} is up: {', '.join(lab.hosts)}")
    return 0


def command_down(args: argparse.Namespace) -> int:
    print(f"lab {args.name!r} is down" if take_down(args.name) else f"there was no lab {args.name!r}")
    return 0


def command_sweep(args: argparse.Namespace) -> int:
    swept = state.sweep()
    print(f"swept: {', '.join(swept)}" if swept else "nothing to sweep")
    return 0


def command_status(args: argparse.Namespace) -> int:
    for name in state.names():
        try:
            lab = Lab.load(name)
        except state.LabError as error:
            print(error)
            continue
        missing = lab.missing()
        print(f"{name}: " + ("whole" if not missing else "not whole: " + "; ".join(missing)))
        for host in lab.hosts.values():
            role = "manager" if host.name in lab.managers else host.kind
            print(f"  {host.name}  {host.address}  {role}  first process {host.pid}  fabric port {host.port}")
    return 0


def command_inventory(args: argparse.Namespace) -> int:
    text = Lab.load(args.name).inventory()
    if args.output:
        Path(args.output).write_text(text)
    else:
        print(text, end="")
    return 0


def command_exec(args: argparse.Namespace) -> int:
    lab = Lab.load(args.name)
    argv = args.command[1:] if args.command[:1] == ["--"] else args.command
    argv = argv or ["bash"]
    if args.host == "fabric":
        command = ["nsenter", f"--net={lab.fabric.netns}", "--", *argv]
    elif args.host in lab.hosts:
        command = [*lab.hosts[args.host].enter(), *argv]
    else:
        raise state.LabError(f"lab {args.name!r} has no host {args.host!r}; it has fabric, {', '.join(lab.hosts)}")
    os.execvpe(command[0], command, os.environ | {"PATH": HOST_PATH})


def command_faults(args: argparse.Namespace) -> int:
    from .faults import FAULTS

    width = max(map(len, FAULTS))
    for fault in FAULTS.values():
        print(f"{fault.name:{width}}  {fault.host}  {fault.summary}")
    return 0


def command_break(args: argparse.Namespace) -> int:
    expected = Lab.load(args.name).break_(args.fault, args.host)
    print(json.dumps(expected, indent=1))
    return 0


def command_heal(args: argparse.Namespace) -> int:
    if bool(args.fault) == args.all:
        raise state.LabError("name one fault, or say --all")
    healed = Lab.load(args.name).heal(args.fault, args.host, wait=not args.no_wait)
    print("\n".join(f"healed {line}" for line in healed) or "no fault is in")
    return 0


def command_reboot(args: argparse.Namespace) -> int:
    failed = Lab.load(args.name).reboot(args.host, wait=not args.no_wait)
    print("\n".join(f"did not start: {line}" for line in failed) or f"{args.host} is up again")
    return int(bool(failed))


def command_snapshot(args: argparse.Namespace) -> int:
    Path(args.output).write_text(json.dumps(Lab.load(args.name).snapshot(), indent=1))
    return 0


def command_compare(args: argparse.Namespace) -> int:
    from .snapshot import difference, without

    lab, before = Lab.load(args.name), json.loads(Path(args.file).read_text())
    deadline = time.monotonic() + args.wait
    while lines := difference(without(before, args.ignore), without(lab.snapshot(), args.ignore)):
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    print("\n".join(lines) or "the same")
    return int(bool(lines))


def command_survey(args: argparse.Namespace) -> int:
    lab, deadline = Lab.load(args.name), time.monotonic() + args.wait
    while (survey := lab.survey()).broken and time.monotonic() < deadline:
        time.sleep(1)
    for path in sorted(survey.broken):
        print(f"broken: {path}")
    print(f"{len(survey.works) - len(survey.broken)} of {len(survey.works)} paths work")
    return int(bool(survey.broken))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab", description="A fleet of real Docker hosts on one machine."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: object, text: str, named: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(function=function)
        if named:
            command.add_argument("--name", default="lab", help="name of the lab (default: %(default)s)")
        return command

    def waits(command: argparse.ArgumentParser, text: str) -> None:
        command.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help=f"{text} (default: 0)")

    up = add("up", command_up, "bring a lab up")
    up.add_argument("--hosts", type=int, default=3, help="number of Docker hosts (default: %(default)s)")
    up.add_argument(
        "--managers", type=int, default=1, help="how many of them are Swarm managers (default: %(default)s)"
    )
    up.add_argument(
        "--bare", type=int, default=0, help="number of further hosts with sshd but no engine (default: %(default)s)"
    )
    up.add_argument("--service", action="store_true", help="run a replicated service (dnsrr) on the overlay too")
    up.add_argument(
        "--interpreter",
        action="append",
        default=[],
        metavar="HOST=PATH",
        help="Ansible's Python on a host (repeatable)",
    )
    up.add_argument(
        "--root", action="append", default=[], metavar="HOST=DIR", help="another root tree for a host (repeatable)"
    )
    add("down", command_down, "take a lab down")
    add("sweep", command_sweep, "clear away labs that died without clearing up", named=False)
    add("status", command_status, "show the labs and whether they are whole", named=False)
    listing = add("inventory", command_inventory, "write the Ansible inventory of a lab")
    listing.add_argument("--output", metavar="FILE", help="write to this file instead of standard output")
    execute = add("exec", command_exec, "run a command on a host, or in the network namespace 'fabric'")
    execute.add_argument("host", metavar="HOST")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    add("faults", command_faults, "list the fault library: name, default host, what it does", named=False)
    breaking = add(
        "break", command_break, "put a fault in, wait until it bites, print what a diagnosis must say (JSON)"
    )
    breaking.add_argument("fault", metavar="FAULT")
    breaking.add_argument("--host", help="the host to break instead of the fault's own")
    healing = add("heal", command_heal, "take a fault out and wait until the lab is whole")
    healing.add_argument("fault", metavar="FAULT", nargs="?")
    healing.add_argument("--all", action="store_true", help="take out every fault")
    healing.add_argument("--host", help="only on this host")
    healing.add_argument("--no-wait", action="store_true", help="do not wait until the lab is whole")
    survey = add("survey", command_survey, "try every path of the lab and show those that do not work")
    waits(survey, "try again for so long until all work")
    booting = add("reboot", command_reboot, "reboot a host: only what is persistent stays; wait until the lab is whole")
    booting.add_argument("host", metavar="HOST")
    booting.add_argument("--no-wait", action="store_true", help="do not wait until the lab is whole")
    keeping = add("snapshot", command_snapshot, "write down the state of all hosts: rules, links, parameters, files …")
    keeping.add_argument("--output", metavar="FILE", required=True, help="the file to write (JSON)")
    comparing = add("compare", command_compare, "show in which lines the state differs from one that was written down")
    comparing.add_argument("file", metavar="FILE")
    comparing.add_argument(
        "--ignore", action="append", default=[], metavar="REGEX", help="leave out lines 'HOST/WHERE/WHAT: …' that match"
    )
    waits(comparing, "look again for so long until it is the same")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    try:
        require_root()
        return int(args.function(args))
    except state.LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted; what was made is taken down", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
