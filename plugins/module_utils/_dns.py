# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""DNS messages (RFC 1035 §4): a query for addresses, and what an answer says.

No library: hosts have none, and a resolver library would hide which server said what. Only what a resolver
needs is read: header, question and answer section. Anything malformed is a DnsError, never another exception.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field

TYPES = {"A": 1, "AAAA": 28}
_CLASS_IN = 1
_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_QUESTION = struct.Struct("!HH")
_MAX_NAME = 255
_MAX_RECORDS = 512

RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}


class DnsError(ValueError):
    """A name that cannot be asked for, or a message that is none."""


@dataclass
class Answer:
    """A response. C(addresses) are those of the type asked for, in the server's order."""

    ident: int
    rcode: int
    truncated: bool
    question: tuple[str, int] | None
    addresses: list[str] = field(default_factory=list)

    @property
    def rcode_name(self) -> str:
        return RCODES.get(self.rcode, f"RCODE{self.rcode}")


def encode_name(name: str) -> bytes:
    """The wire form of a name; one trailing dot is allowed.

    @raises DnsError: an empty or over-long label or name, or characters outside ASCII.
    """
    bare = name[:-1] if name.endswith(".") else name
    try:
        labels = bare.encode("ascii").split(b".")
    except UnicodeEncodeError as exc:
        raise DnsError(f"{name!r} has characters outside ASCII: give its punycode form") from exc
    if not all(0 < len(label) <= 63 for label in labels):
        raise DnsError(f"{name!r} has an empty label, or one longer than 63 characters")
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(wire) > _MAX_NAME:
        raise DnsError(f"{name!r} is longer than 255 bytes")
    return wire


def encode_query(ident: int, name: str, qtype: str) -> bytes:
    """A recursive query (RD) of class IN for C(A) or C(AAAA). Without EDNS: long answers come truncated."""
    return _HEADER.pack(ident, 0x0100, 1, 0, 0, 0) + encode_name(name) + _QUESTION.pack(TYPES[qtype], _CLASS_IN)


def decode(data: bytes) -> Answer:
    """The response in C(data).

    @raises DnsError: it is too short, a query, or points out of itself.
    """
    if len(data) < _HEADER.size:
        raise DnsError(f"{len(data)} bytes are too short for a DNS header")
    ident, flags, questions, records, _authority, _additional = _HEADER.unpack_from(data)
    if not flags & 0x8000:
        raise DnsError("a query, not a response")
    if questions > 1 or records > _MAX_RECORDS:
        raise DnsError(f"{questions} questions and {records} answers")
    answer = Answer(ident, flags & 0x000F, bool(flags & 0x0200), None)
    offset = _HEADER.size
    if questions:
        name, offset = decode_name(data, offset)
        qtype, _qclass = _unpack(_QUESTION, data, offset)
        answer.question = (name, qtype)
        offset += _QUESTION.size
    if answer.truncated:
        return answer  # a server may cut anywhere: the records are asked for again by TCP
    for _record in range(records):
        offset = _decode_record(data, offset, answer)
    return answer


def _decode_record(data: bytes, offset: int, answer: Answer) -> int:
    """Append the record's address, if it is one of the type asked for; returns where the next record begins."""
    _owner, offset = decode_name(data, offset)
    rtype, rclass, _ttl, length = _unpack(_RECORD, data, offset)
    offset += _RECORD.size
    value = data[offset : offset + length]
    if len(value) < length:
        raise DnsError("a record is longer than the message")
    if rclass == _CLASS_IN and rtype in TYPES.values() and (not answer.question or answer.question[1] == rtype):
        if length != (4 if rtype == TYPES["A"] else 16):
            raise DnsError(f"an address of {length} bytes")
        answer.addresses.append(str(ipaddress.ip_address(value)))
    return offset + length


def decode_name(data: bytes, offset: int) -> tuple[str, int]:
    """(name in lower case without the last dot, offset behind it). Compression may only point backwards: no loops.

    @raises DnsError: it leaves the message, points forwards, or is longer than a name can be.
    """
    labels: list[str] = []
    end: int | None = None
    limit, size = offset, 0
    while True:
        if offset >= len(data):
            raise DnsError("a name runs out of the message")
        length = data[offset]
        if length & 0xC0 == 0xC0:
            target = int.from_bytes(data[offset : offset + 2], "big") & 0x3FFF
            if offset + 1 >= len(data) or target >= limit:
                raise DnsError("a compression pointer that does not point backwards")
            end = offset + 2 if end is None else end
            offset = limit = target
            continue
        if length & 0xC0:
            raise DnsError(f"label type {length >> 6} is not defined")
        offset += 1
        if length == 0:
            return ".".join(labels), offset if end is None else end
        size += length + 1
        if offset + length > len(data) or size >= _MAX_NAME:
            raise DnsError("a name runs out of the message, or is longer than 255 bytes")
        labels.append(data[offset : offset + length].decode("ascii", "backslashreplace").lower())
        offset += length


def _unpack(form: struct.Struct, data: bytes, offset: int) -> tuple[int, ...]:
    if offset + form.size > len(data):
        raise DnsError("a record runs out of the message")
    return form.unpack_from(data, offset)


@dataclass
class ResolverConfig:
    """What resolv.conf(5) says, bounded as the C library bounds it."""

    nameservers: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)
    ndots: int = 1

    MAX_NAMESERVERS = 3
    MAX_SEARCH = 6
    MAX_NDOTS = 15

    @classmethod
    def build(cls, nameservers: list[str], search: list[str], options: list[str]) -> ResolverConfig:
        """From the three lists a resolv.conf consists of; what cannot be used is left out."""
        config = cls(_addresses(nameservers)[: cls.MAX_NAMESERVERS])
        config.search = [domain.rstrip(".") for domain in search if domain.strip(".")][: cls.MAX_SEARCH]
        for option in options:
            key, _colon, value = option.partition(":")
            if key == "ndots" and value.isdecimal() and value.isascii():
                config.ndots = min(int(value[:4]), cls.MAX_NDOTS)
        return config

    @classmethod
    def parse(cls, text: str) -> ResolverConfig:
        """From the text of a resolv.conf: the last C(search) or C(domain) line wins, unknown lines are skipped."""
        nameservers: list[str] = []
        search: list[str] = []
        options: list[str] = []
        for line in text.splitlines():
            words = line.split()
            if len(words) < 2 or words[0][0] in "#;":
                continue
            if words[0] == "nameserver":
                nameservers.append(words[1])
            elif words[0] == "search":
                search = words[1:]
            elif words[0] == "domain":
                search = words[1:2]
            elif words[0] == "options":
                options += words[1:]
        return cls.build(nameservers, search, options)

    def candidates(self, name: str) -> list[str]:
        """The names a resolver tries, in its order: with enough dots as it is first, else the search list first."""
        bare = name.rstrip(".")
        if name.endswith("."):
            return [bare]
        extended = [f"{bare}.{domain}" for domain in self.search]
        return [bare, *extended] if bare.count(".") >= self.ndots else [*extended, bare]


def _addresses(words: list[str]) -> list[str]:
    found = []
    for word in words:
        try:
            ipaddress.ip_address(word.partition("%")[0])
        except ValueError:
            continue
        found.append(word)
    return found
