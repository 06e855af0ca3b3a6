# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Links, addresses, routes, rules and traffic control of the namespace the calling thread is in.

The messages are dumped by L(_rawdump), which knows when a table changed under the reader, and decoded by pyroute2's
message classes. No pyroute2 socket is opened: none of its helpers that create paths or need an event loop is involved.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from ansible_collections.crosshost.doctor.plugins.module_utils._files import read_int
from ansible_collections.crosshost.doctor.plugins.module_utils._rawdump import copies, dump

RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE, RTM_GETRULE, RTM_GETQDISC, RTM_GETTFILTER = 18, 22, 26, 34, 38, 46
IFF_UP, IFF_LOWER_UP = 0x1, 0x10000
IFA_F_SECONDARY = 0x1
IFLA_EXT_MASK = 29
SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: counters are read separately
RT_TABLE_LOCAL, RTPROT_KERNEL, RTM_F_CLONED = 255, 2, 0x200
FIB_RULE_INVERT = 0x2
ROUTE_LIMIT = 20000  # a full Internet table is not what breaks an overlay
TC_H_ROOT, TC_H_INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
PARENTS = {"ingress": ((0xFFFF0000, "ingress"),), "clsact": ((0xFFFFFFF2, "ingress"), (0xFFFFFFF3, "egress"))}
HARMLESS_QDISCS = frozenset(("noqueue", "mq", "pfifo_fast", "pfifo", "bfifo", "fq", "fq_codel", "ingress", "clsact"))
SYS_NET = "/sys/class/net"
TCMSG = struct.Struct("=BxxxiIII")

BRIDGE_STATES = ("disabled", "listening", "learning", "forwarding", "blocking")
VXLAN_DF = ("unset", "set", "inherit")
SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
ROUTE_TYPES = dict(enumerate(("unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole")))
ROUTE_TYPES.update({7: "unreachable", 8: "prohibit", 9: "throw", 10: "nat", 11: "xresolve"})
PROTOCOLS = {0: "unspec", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 9: "ra", 11: "zebra", 12: "bird"}
PROTOCOLS.update({14: "ntk", 15: "xorp", 16: "dhcp", 17: "mrouted", 18: "keepalived", 42: "babel", 186: "bgp"})
RULE_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
NEXTHOP_FLAGS = ((1, "dead"), (4, "onlink"), (16, "linkdown"), (32, "unresolved"))


def _decode(name: str, messages: list[bytes]) -> Iterator[Any]:
    """The messages as objects of the pyroute2 class C(name), which lives in a module of the same name."""
    message_class = getattr(importlib.import_module(f"pyroute2.netlink.rtnl.{name}"), name)
    for raw in messages:
        message = message_class(raw)
        message.decode()
        yield message


def _family(number: int) -> int:
    return 6 if number == socket.AF_INET6 else 4


def _text(value: Any) -> str | None:
    """Names in messages are text, or bytes where they are not valid text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def read_links() -> tuple[list[dict[str, Any]], bool]:
    """Every link, without its statistics; see the C(links) key of the facts."""
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + struct.pack("=HHI", 8, IFLA_EXT_MASK, SKIP_STATS)
    messages, consistent = dump(RTM_GETLINK, body, copies)
    return [link_row(message) for message in _decode("ifinfmsg", messages)], consistent


def link_row(message: Any) -> dict[str, Any]:
    """One C(links) row from a decoded RTM_NEWLINK."""
    get = message.get_attr
    info = get("IFLA_LINKINFO")
    kind = _text(info.get_attr("IFLA_INFO_KIND")) if info else None
    return {
        "index": message["index"],
        "name": _text(get("IFLA_IFNAME")),
        "kind": kind,
        "up": bool(message["flags"] & IFF_UP),
        "lower_up": bool(message["flags"] & IFF_LOWER_UP),
        "operstate": get("IFLA_OPERSTATE"),
        "mtu": get("IFLA_MTU"),
        "mac": get("IFLA_ADDRESS"),
        "master": get("IFLA_MASTER"),
        "link": get("IFLA_LINK"),
        "link_netnsid": get("IFLA_LINK_NETNSID"),
        "vxlan": _vxlan(info.get_attr("IFLA_INFO_DATA")) if kind == "vxlan" else None,
        "bridge_port": _bridge_port(info) if info else None,
        "xdp": _xdp(get("IFLA_XDP")),
        "driver": None,
    }


def name_drivers(links: list[dict[str, Any]], base: str = SYS_NET) -> None:
    """Fill C(driver) of the host's network cards and of veths, in place.

    Told by files, not by ethtool's ioctl: that would wake a card that sleeps, and have the kernel look for a module
    when the card has just gone.
    """
    for link in links:
        if link["kind"] == "veth":
            link["driver"] = "veth"
        elif link["kind"] is None and link["name"] and read_int(f"{base}/{link['name']}/ifindex") == link["index"]:
            with contextlib.suppress(OSError):
                link["driver"] = os.path.basename(os.readlink(f"{base}/{link['name']}/device/driver"))


def _vxlan(data: Any) -> dict[str, Any] | None:
    if not hasattr(data, "get_attr"):
        return None
    get = data.get_attr
    df = get("IFLA_VXLAN_DF") or 0
    return {
        "vni": get("IFLA_VXLAN_ID"),
        "port": get("IFLA_VXLAN_PORT"),
        "local": get("IFLA_VXLAN_LOCAL") or get("IFLA_VXLAN_LOCAL6"),
        "group": get("IFLA_VXLAN_GROUP") or get("IFLA_VXLAN_GROUP6"),
        "learning": bool(get("IFLA_VXLAN_LEARNING")),
        "proxy": bool(get("IFLA_VXLAN_PROXY")),
        "l2miss": bool(get("IFLA_VXLAN_L2MISS")),
        "l3miss": bool(get("IFLA_VXLAN_L3MISS")),
        "ttl": get("IFLA_VXLAN_TTL"),
        "df": VXLAN_DF[df] if df < len(VXLAN_DF) else str(df),
        "external": bool(get("IFLA_VXLAN_COLLECT_METADATA")),
        "link": get("IFLA_VXLAN_LINK") or None,
    }


def _bridge_port(info: Any) -> dict[str, Any] | None:
    data = info.get_attr("IFLA_INFO_SLAVE_DATA")
    if _text(info.get_attr("IFLA_INFO_SLAVE_KIND")) != "bridge" or not hasattr(data, "get_attr"):
        return None
    state = data.get_attr("IFLA_BRPORT_STATE")
    return {
        "state": BRIDGE_STATES[state] if state is not None and state < len(BRIDGE_STATES) else None,
        "hairpin": bool(data.get_attr("IFLA_BRPORT_MODE")),
        "learning": bool(data.get_attr("IFLA_BRPORT_LEARNING")),
        "isolated": bool(data.get_attr("IFLA_BRPORT_ISOLATED")),
    }


def _xdp(data: Any) -> dict[str, Any] | None:
    mode = data.get_attr("IFLA_XDP_ATTACHED") if hasattr(data, "get_attr") else None
    if not mode:
        return None
    names = ("PROG_ID", "DRV_PROG_ID", "SKB_PROG_ID", "HW_PROG_ID")
    return {"mode": mode, "id": next(filter(None, (data.get_attr(f"IFLA_XDP_{name}") for name in names)), None)}


def read_addresses() -> tuple[list[dict[str, Any]], bool]:
    """Every IPv4 and IPv6 address; see the C(addresses) key of the facts."""
    messages, consistent = dump(RTM_GETADDR, bytes(8), copies)
    rows = []
    for message in _decode("ifaddrmsg", messages):
        if message["family"] in (socket.AF_INET, socket.AF_INET6):
            flags = message.get_attr("IFA_FLAGS")
            flags = message["flags"] if flags is None else flags
            rows.append(
                {
                    "index": message["index"],
                    "family": _family(message["family"]),
                    # On a point-to-point link IFA_ADDRESS is the peer's.
                    "ip": message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"),
                    "prefix": message["prefixlen"],
                    "scope": SCOPES.get(message["scope"], str(message["scope"])),
                    "secondary": bool(flags & IFA_F_SECONDARY) and message["family"] == socket.AF_INET,
                }
            )
    return rows, consistent


class _Routes:
    """Consumer of a route dump: leaves out what follows from the addresses, and counts what exceeds the limit."""

    def __init__(self) -> None:
        self.left_out = 0

    def __call__(self, messages: Iterator[tuple[bytes, int, int]]) -> list[bytes]:
        kept: list[bytes] = []
        self.left_out = 0
        for buffer, start, end in messages:
            table, protocol = buffer[start + 20], buffer[start + 21]
            flags = struct.unpack_from("=I", buffer, start + 24)[0]
            if (table == RT_TABLE_LOCAL and protocol == RTPROT_KERNEL) or flags & RTM_F_CLONED:
                continue
            if len(kept) < ROUTE_LIMIT:
                kept.append(buffer[start:end])
            else:
                self.left_out += 1
        return kept


def read_routes() -> tuple[list[dict[str, Any]], bool, int]:
    """Routes of all tables, one row for each next hop; the third value counts those beyond the limit.

    Entries of table local that the kernel made itself follow from the addresses and are left out.
    """
    consumer = _Routes()
    messages, consistent = dump(RTM_GETROUTE, bytes(12), consumer)
    rows: list[dict[str, Any]] = []
    for message in _decode("rtmsg", messages):
        if message["family"] in (socket.AF_INET, socket.AF_INET6):
            rows.extend(route_rows(message))
    return rows, consistent, consumer.left_out


def route_rows(message: Any) -> list[dict[str, Any]]:
    """The C(routes) rows of a decoded RTM_NEWROUTE."""
    get = message.get_attr
    destination, metrics = get("RTA_DST"), get("RTA_METRICS")
    zero = "::" if message["family"] == socket.AF_INET6 else "0.0.0.0"
    kind, protocol, scope = message["type"], message["proto"], message["scope"]
    row = {
        "family": _family(message["family"]),
        "table": get("RTA_TABLE") or message["table"],
        "dst": f"{destination or zero}/{message['dst_len']}" if destination or message["dst_len"] else "default",
        "gateway": _gateway(message),
        "oif": get("RTA_OIF"),
        "src": get("RTA_PREFSRC"),
        "metric": get("RTA_PRIORITY") or 0,
        "type": ROUTE_TYPES.get(kind, str(kind)),
        "protocol": PROTOCOLS.get(protocol, str(protocol)),
        "scope": SCOPES.get(scope, str(scope)),
        "mtu": metrics.get_attr("RTAX_MTU") if hasattr(metrics, "get_attr") else None,
        "flags": [name for bit, name in NEXTHOP_FLAGS if message["flags"] & bit],
    }
    hops = get("RTA_MULTIPATH") or []
    if not hops:
        return [row]
    return [
        dict(
            row,
            gateway=_gateway(hop),
            oif=hop["oif"],
            flags=[name for bit, name in NEXTHOP_FLAGS if hop["flags"] & bit],
        )
        for hop in hops
    ]


def _gateway(message: Any) -> str | None:
    """The next hop, also of the other address family (RTA_VIA)."""
    via = message.get_attr("RTA_VIA")
    return message.get_attr("RTA_GATEWAY") or (via["addr"] if isinstance(via, dict) else None)


def read_rules() -> tuple[list[dict[str, Any]], bool]:
    """Policy rules of both families; see the C(rules) key of the facts."""
    messages, consistent = dump(RTM_GETRULE, bytes(12), copies)
    rows = [
        rule_row(message)
        for message in _decode("fibmsg", messages)
        if message["family"] in (socket.AF_INET, socket.AF_INET6)
    ]
    return rows, consistent


def _range(value: Any) -> list[int] | None:
    """A range that pyroute2 writes as C(4789:4800), as [first, last]."""
    return [int(end) for end in value.split(":")] if isinstance(value, str) else None


def rule_row(message: Any) -> dict[str, Any]:
    """One C(rules) row from a decoded RTM_NEWRULE."""
    get = message.get_attr
    source, destination = get("FRA_SRC"), get("FRA_DST")
    suppress = get("FRA_SUPPRESS_PREFIXLEN")
    return {
        "family": _family(message["family"]),
        "priority": get("FRA_PRIORITY") or 0,
        "table": get("FRA_TABLE") or message["table"],
        "src": f"{source}/{message['src_len']}" if source else None,
        "dst": f"{destination}/{message['dst_len']}" if destination else None,
        "fwmark": get("FRA_FWMARK"),
        "fwmask": get("FRA_FWMASK"),
        "iif": _text(get("FRA_IIFNAME")),
        "oif": _text(get("FRA_OIFNAME")),
        "action": RULE_ACTIONS.get(message["action"], str(message["action"])),
        "goto": get("FRA_GOTO"),
        "invert": bool(message["flags"] & FIB_RULE_INVERT),
        "suppress_prefix": None if suppress in (None, 0xFFFFFFFF) else suppress,
        "uid_range": _range(get("FRA_UID_RANGE")),
        "ip_proto": get("FRA_IP_PROTO"),
        "sport": _range(get("FRA_SPORT_RANGE")),
        "dport": _range(get("FRA_DPORT_RANGE")),
    }


def read_tc() -> tuple[list[dict[str, Any]], bool]:
    """Traffic control that may drop or redirect: filters at ingress and clsact hooks, shaping and lossy queues."""
    messages, consistent = dump(RTM_GETQDISC, TCMSG.pack(0, 0, 0, 0, 0), copies)
    rows = []
    for message in _decode("tcmsg", messages):
        kind = _text(message.get_attr("TCA_KIND")) or ""
        for parent, attach in PARENTS.get(kind, ()):
            rows.extend(_filters(message["index"], parent, attach))
        if kind not in HARMLESS_QDISCS:
            attach = "root" if message["parent"] == TC_H_ROOT else "class"
            rows.append({"index": message["index"], "attach": attach, "kind": kind, "id": None})
    return rows, consistent


def _filters(index: int, parent: int, attach: str) -> list[dict[str, Any]]:
    messages, _consistent = dump(RTM_GETTFILTER, TCMSG.pack(0, index, 0, parent, 0), copies)
    rows = []
    for message in _decode("tcmsg", messages):
        options = message.get_attr("TCA_OPTIONS")
        if options is None:
            continue  # the head of a priority's list announces the kind, its filters follow
        program = options.get_attr("TCA_BPF_ID") if hasattr(options, "get_attr") else None
        row = {"index": index, "attach": attach, "kind": _text(message.get_attr("TCA_KIND")), "id": program}
        if row not in rows:
            rows.append(row)
    return rows
