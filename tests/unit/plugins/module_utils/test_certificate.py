# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _certificate
from ansible_collections.crosshost.doctor.plugins.module_utils._certificate import GENERALIZED_TIME, UTC_TIME, validity

FIRST, LAST = 1795261440, 1803041040  # 2026-11-21 11:44:00 and 2027-02-19 12:44:00


def der(tag: int, *parts: bytes) -> bytes:
    """One element."""
    value = b"".join(parts)
    size = len(value)
    length = bytes((size,)) if size < 128 else bytes((0x82, size >> 8, size & 255))
    return bytes((tag,)) + length + value


def certificate(first: bytes, last: bytes, version: bytes = der(0xA0, der(2, b"\2"))) -> bytes:
    """As much of a certificate as is read, and something behind it."""
    issuer = der(0x30, der(0x31, b"x" * 200))
    head = (version, der(2, b"\1" * 20), der(0x30, b"\6\1\1"), issuer, der(0x30, first, last))
    return der(0x30, der(0x30, *head, der(0x30, b"subject")), der(0x30, b""), der(3, b"\0signature"))


def pem(raw: bytes) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(raw).decode()}-----END CERTIFICATE-----\n"


GOOD = certificate(der(UTC_TIME, b"261121114400Z"), der(GENERALIZED_TIME, b"20270219124400Z"))


def test_both_ways_to_write_a_time() -> None:
    assert validity(pem(GOOD)) == (FIRST, LAST)
    without_version = certificate(der(UTC_TIME, b"261121114400Z"), der(UTC_TIME, b"270219124400Z"), b"")
    assert validity(pem(without_version)) == (FIRST, LAST)
    old = certificate(der(UTC_TIME, b"700101000001Z"), der(GENERALIZED_TIME, b"20500101000000Z"))
    assert validity(pem(old)) == (1, 2524608000)


def test_of_several_certificates_the_nodes_own_is_the_first() -> None:
    other = certificate(der(UTC_TIME, b"200101000000Z"), der(UTC_TIME, b"400101000000Z"))
    assert validity(pem(GOOD) + pem(other)) == (FIRST, LAST)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "-----BEGIN CERTIFICATE-----\n====\n-----END CERTIFICATE-----",
        pem(b""),
        pem(b"\x30"),
        pem(b"\x30\x80"),
        pem(b"\x30\x84\xff\xff\xff\xff"),
        pem(der(0x31, GOOD)),
        pem(der(0x30, der(0x30, der(2, b"\1")))),
        pem(certificate(der(UTC_TIME, b"261321114400Z"), der(UTC_TIME, b"270219124400Z"))),
        pem(certificate(der(UTC_TIME, b"2611211144Z"), der(UTC_TIME, b"270219124400Z"))),
        pem(certificate(der(0x16, b"261121114400Z"), der(UTC_TIME, b"270219124400Z"))),
        pem(certificate(der(UTC_TIME, b"\xff" * 13), b"")),
    ],
)
def test_what_is_no_certificate_has_no_dates(text: str) -> None:
    assert validity(text) is None


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, len(GOOD)))
def test_a_distorted_certificate_does_not_end_the_reading(place: int, value: int, end: int) -> None:
    broken = bytearray(GOOD)
    broken[place] = value
    for raw in (bytes(broken), GOOD[:end]):
        dates = validity(pem(raw))
        assert dates is None or len(dates) == 2


def test_a_file_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert _certificate.read_certificate(str(tmp_path / "swarm-node.crt")) is None


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
@pytest.mark.parametrize("days", [1, 20000])
def test_the_dates_are_those_of_openssl(tmp_path: Path, days: int) -> None:
    key, crt = tmp_path / "key", tmp_path / "crt"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made = ["openssl", "req", "-x509", *curve, "-subj", "/O=x/OU=swarm-manager/CN=y", "-days", str(days)]
    before = int(time.time())
    subprocess.run([*made, "-keyout", str(key), "-out", str(crt)], check=True, capture_output=True)
    found = _certificate.read_certificate(str(crt))
    assert found is not None
    assert before <= found["not_before"] <= time.time()
    assert found["not_after"] - found["not_before"] == days * 86400
    assert found["path"] == str(crt)
