# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _sysctl_files as files
from ansible_collections.crosshost.doctor.plugins.module_utils import _sysctl_state
from tests.unit.plugins.module_utils.namespace import needs_root

RP = "net.ipv4.conf.{}.rp_filter"
INTERFACES = ("all", "default", "lo", "v0", "v1", "v2.5")
SYSTEMD_SYSCTL = "/usr/lib/systemd/systemd-sysctl"
PROCPS = shutil.which("sysctl", path="/usr/sbin:/sbin:/usr/bin:/bin")


def tree(root: Path, texts: dict[str, str]) -> str:
    """A made host."""
    for directory in (*files.DIRECTORIES[:-1], "/run/systemd/system"):
        (root / directory[1:]).mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        (root / path[1:]).write_text(text)
    return str(root)


def winner(found: files.Persisted, key: str) -> tuple[str | None, str | None]:
    statement, _tools = found.setting(files.normalize(key))
    return (statement.value, statement.file) if statement else (None, None)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            ("net.ipv4.conf.enp3s0/200.forwarding", "net/ipv4/conf/enp3s0.200/forwarding"),
            ("net/ipv4/conf/enp3s0.200/forwarding", "net/ipv4/conf/enp3s0.200/forwarding"),
            ("/net//ipv4/./ip_forward/", "net/ipv4/ip_forward"),
            ("forwarding", "forwarding"),
        ],
    )
    def test_the_first_separator_decides(self, name: str, path: str) -> None:
        assert files.normalize(name) == path

    @given(
        st.lists(st.text("abcdef0123456789_-.", min_size=1).filter(lambda part: part != "."), min_size=2, max_size=6)
    )
    def test_a_path_survives_the_way_through_its_dotted_name(self, parts: list[str]) -> None:
        parts[0] = parts[0].replace(".", "_")
        path = "/".join(parts)
        assert files.normalize(files.dotted(path)) == path == files.normalize(path)

    @pytest.mark.parametrize(
        ("pattern", "path", "hit"),
        [
            ("net/ipv4/conf/*/rp_filter", "net/ipv4/conf/eth0.100/rp_filter", True),
            ("net/ipv4/conf/*/rp_filter", "net/ipv4/conf/all/rp_filter", True),
            ("net/ipv4/*/rp_filter", "net/ipv4/conf/all/rp_filter", False),
            ("net/ipv4/conf/eth?/rp_filter", "net/ipv4/conf/eth0/rp_filter", True),
            ("net/ipv4/conf/[!l]*/rp_filter", "net/ipv4/conf/lo/rp_filter", False),
            ("net/ipv4/conf/[^l]*/rp_filter", "net/ipv4/conf/lo/rp_filter", False),
            ("net/ipv4/conf/eth0/rp_filter", "net/ipv4/conf/ETH0/rp_filter", False),
        ],
    )
    def test_a_glob_stays_within_its_part(self, pattern: str, path: str, hit: bool) -> None:
        assert files.matches(pattern, path) is hit


class TestLines:
    @pytest.mark.parametrize(
        ("line", "path", "value", "ignore"),
        [
            ("net.ipv4.ip_forward=1", "net/ipv4/ip_forward", "1", False),
            ("  net.ipv4.ip_forward \t=  1 \r", "net/ipv4/ip_forward", "1", False),
            ("-net.ipv4.ip_forward = 1", "net/ipv4/ip_forward", "1", True),
            ("- net.ipv4.ip_forward = 1", "net/ipv4/ip_forward", "1", True),
            ("-net.ipv4.conf.eth0.rp_filter", "net/ipv4/conf/eth0/rp_filter", None, False),
            ("net.ipv4.ip_local_port_range = 1024 65535", "net/ipv4/ip_local_port_range", "1024 65535", False),
            ("kernel.core_pattern=|/bin/x a=b", "kernel/core_pattern", "|/bin/x a=b", False),
            ("net.ipv4.ip_forward = 1 # on", "net/ipv4/ip_forward", "1 # on", False),
            ("net.ipv4.ip_forward =", "net/ipv4/ip_forward", "", False),
        ],
    )
    def test_an_assignment(self, line: str, path: str, value: str | None, ignore: bool) -> None:
        assert files.parse_line(line, "f", 3) == files.Statement(path, value, "f", 3, ignore)

    @pytest.mark.parametrize(
        "line", ["", "  ", "# net.ipv4.ip_forward=1", " ;net.ipv4.ip_forward=1", "words", "=1", "-"]
    )
    def test_no_assignment(self, line: str) -> None:
        assert files.parse_line(line, "f", 1) is None

    @given(st.text())
    def test_any_text_is_a_file(self, text: str) -> None:
        for statement in files.parse(text, "f"):
            assert statement.path == files.normalize(statement.path)
            assert 1 <= statement.line <= text.count("\n") + 1
            assert "\n" not in f"{statement.path}{statement.value}"

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["net/ipv4/ip_forward", "net/ipv4/conf/eth0.5/rp_filter", "net/core/somaxconn"]),
                st.integers(-5, 70000),
                st.booleans(),
                st.sampled_from(["{0}={1}", " {0} = {1}\t", "{0}\t=\t{1}\r"]),
                st.sampled_from(["", "\n\n", "# a = b\n", ";\n"]),
            )
        )
    )
    def test_what_was_written_is_read(self, rows: list[tuple[str, int, bool, str, str]]) -> None:
        text = "".join(
            f"{before}{'-' * dash}{shape.format(path if value % 2 else files.dotted(path), value).strip(' ')}\n"
            for path, value, dash, shape, before in rows
        )
        read = [(s.path, s.value, s.ignore_failure) for s in files.parse(text, "f")]
        assert read == [(path, str(value), dash) for path, value, dash, _shape, _before in rows]


class TestFiles:
    def test_names_decide_and_not_directories(self, tmp_path: Path) -> None:
        key = "net.ipv4.ip_forward"
        root = tree(
            tmp_path,
            {
                "/etc/sysctl.d/10-a.conf": f"{key}=1\n",
                "/usr/lib/sysctl.d/90-b.conf": f"{key}=0\n",
                "/run/sysctl.d/50-c.conf": f"{key}=2\n",
                "/etc/sysctl.d/99-no-suffix": f"{key}=3\n",
                "/etc/sysctl.d/.99-hidden.conf": f"{key}=4\n",
            },
        )
        found = files.scan(root)
        assert found.files == ["/etc/sysctl.d/10-a.conf", "/run/sysctl.d/50-c.conf", "/usr/lib/sysctl.d/90-b.conf"]
        assert winner(found, key) == ("0", "/usr/lib/sysctl.d/90-b.conf")
        statement, tools = found.setting("net/ipv4/ip_forward")
        assert tools == [files.SYSTEMD, files.PROCPS]
        assert [loser.value for loser in found.losers("net/ipv4/ip_forward", statement)] == ["2", "1"]

    def test_an_earlier_directory_masks_the_name(self, tmp_path: Path) -> None:
        root = tree(
            tmp_path,
            {
                "/etc/sysctl.d/50-a.conf": "# nothing\n",
                "/run/sysctl.d/50-a.conf": "net.ipv4.ip_forward=0\n",
                "/usr/local/lib/sysctl.d/60-b.conf": "net.ipv4.ip_forward=1\n",
                "/usr/lib/sysctl.d/60-b.conf": "net.ipv4.ip_forward=2\n",
            },
        )
        found = files.scan(root)
        assert winner(found, "net.ipv4.ip_forward") == ("1", "/usr/local/lib/sysctl.d/60-b.conf")
        assert found.masked == [
            {"file": "/run/sysctl.d/50-a.conf", "by": "/etc/sysctl.d/50-a.conf"},
            {"file": "/usr/lib/sysctl.d/60-b.conf", "by": "/usr/local/lib/sysctl.d/60-b.conf"},
        ]

    def test_a_link_to_dev_null_masks(self, tmp_path: Path) -> None:
        root = tree(tmp_path, {"/usr/lib/sysctl.d/50-a.conf": "net.ipv4.ip_forward=0\n"})
        (tmp_path / "etc/sysctl.d/50-a.conf").symlink_to("/dev/null")
        found = files.scan(root)
        assert winner(found, "net.ipv4.ip_forward") == (None, None)
        assert found.notes == []

    def test_lib_is_read_where_it_is_no_link(self, tmp_path: Path) -> None:
        root = tree(tmp_path, {"/usr/lib/sysctl.d/50-a.conf": "net.ipv4.ip_forward=0\n"})
        (tmp_path / "lib").symlink_to("usr/lib")
        assert files.scan(root).masked == []
        (tmp_path / "lib").unlink()
        (tmp_path / "lib/sysctl.d").mkdir(parents=True)
        (tmp_path / "lib/sysctl.d/60-b.conf").write_text("net.ipv4.ip_forward=1\n")
        assert winner(files.scan(root), "net.ipv4.ip_forward") == ("1", "/lib/sysctl.d/60-b.conf")

    def test_sysctl_conf_counts_for_procps_and_for_systemd_only_through_a_link(self, tmp_path: Path) -> None:
        key, path = "net.ipv4.ip_forward", "net/ipv4/ip_forward"
        root = tree(tmp_path, {"/etc/sysctl.conf": f"{key}=0\n", "/etc/sysctl.d/zz-a.conf": f"{key}=1\n"})
        found = files.scan(root)
        assert (found.tool, winner(found, key)) == (files.SYSTEMD, ("1", "/etc/sysctl.d/zz-a.conf"))
        assert found.setting(path)[1] == [files.SYSTEMD]
        (tmp_path / "etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")
        assert winner(files.scan(root), key) == ("1", "/etc/sysctl.d/zz-a.conf")
        os.rename(tmp_path / "etc/sysctl.d/zz-a.conf", tmp_path / "etc/sysctl.d/90-a.conf")
        assert winner(files.scan(root), key) == ("0", "/etc/sysctl.d/99-sysctl.conf")
        (tmp_path / "run/systemd/system").rmdir()
        found = files.scan(root)
        assert (found.tool, winner(found, key)) == (files.PROCPS, ("0", "/etc/sysctl.conf"))

    def test_what_only_the_other_program_sets_is_said_with_its_name(self, tmp_path: Path) -> None:
        root = tree(tmp_path, {"/etc/sysctl.conf": "net.ipv4.ip_forward=0\n"})
        statement, tools = files.scan(root).setting("net/ipv4/ip_forward")
        assert statement and (statement.file, tools) == ("/etc/sysctl.conf", [files.PROCPS])

    def test_ufw_comes_last_where_it_is_enabled(self, tmp_path: Path) -> None:
        root = tree(tmp_path, {"/etc/sysctl.d/zz.conf": "net.ipv4.ip_forward=1\n"})
        for path, text in {
            "etc/ufw/ufw.conf": "# ENABLED=no\nENABLED=yes\n",
            "etc/default/ufw": 'IPT_SYSCTL="/etc/ufw/sysctl.conf"\n',
            "etc/ufw/sysctl.conf": "net/ipv4/ip_forward=0\n",
        }.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(text)
        statement, tools = files.scan(root).setting("net/ipv4/ip_forward")
        assert statement and (statement.file, tools) == ("/etc/ufw/sysctl.conf", [files.UFW])
        (tmp_path / "etc/ufw/ufw.conf").write_text("ENABLED=no\n")
        assert winner(files.scan(root), "net.ipv4.ip_forward") == ("1", "/etc/sysctl.d/zz.conf")

    def test_what_cannot_be_read_is_noted_and_still_masks(self, tmp_path: Path) -> None:
        root = tree(tmp_path, {"/usr/lib/sysctl.d/50-a.conf": "net.ipv4.ip_forward=0\n"})
        os.mkfifo(tmp_path / "etc/sysctl.d/50-a.conf")
        found = files.scan(root)
        assert [note["file"] for note in found.notes] == ["/etc/sysctl.d/50-a.conf"]
        assert winner(found, "net.ipv4.ip_forward") == (None, None)

    def test_a_link_to_nothing_is_nothing(self, tmp_path: Path) -> None:
        root = tree(tmp_path, {})
        (tmp_path / "etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")
        assert files.scan(root).notes == []

    def test_much_is_cut_off_and_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "FILES_LIMIT", 2)
        monkeypatch.setattr(files, "BYTES_LIMIT", 60)
        monkeypatch.setattr(files, "STATEMENTS_LIMIT", 2)
        root = tree(tmp_path, {f"/etc/sysctl.d/{n}.conf": "net.core.a=1\n" * 9 for n in range(4)})
        found = files.scan(root)
        assert len(found.statements) == 2
        assert len(found.files) == 2
        whys = " ".join(note["why"] for note in found.notes)
        assert "2 more files" in whys and "longer than 60 bytes" in whys and "more than 2 settings" in whys

    def test_a_file_can_be_imagined_and_imagined_away(self, tmp_path: Path) -> None:
        root = tree(tmp_path, {"/etc/sysctl.d/50-a.conf": "net.ipv4.ip_forward=0\n"})
        new = files.scan(root, {"/etc/sysctl.d/60-b.conf": "net.ipv4.ip_forward=1\n"})
        assert winner(new, "net.ipv4.ip_forward") == ("1", "/etc/sysctl.d/60-b.conf")
        assert winner(files.scan(root, {"/etc/sysctl.d/50-a.conf": None}), "net.ipv4.ip_forward") == (None, None)

    def test_the_facts_have_what_files_set_and_nothing_else(self, tmp_path: Path) -> None:
        root = tree(tmp_path, {"/etc/sysctl.d/50-a.conf": "net.ipv4.conf.*.rp_filter=2\nnet.core.somaxconn=1\n"})
        missing: list[dict[str, str]] = []
        keys = ["net.ipv4.ip_forward", "net.ipv4.conf.eth0/5.rp_filter"]
        assert files.persisted_sysctls(keys, missing, root) == {
            "net.ipv4.conf.eth0/5.rp_filter": {"value": "2", "file": "/etc/sysctl.d/50-a.conf"}
        }
        assert missing == []


def orders(*lines: str) -> dict[str, files.Order]:
    """Both programs' orders of files of one line each."""
    found = [files.parse_line(line, f"{number}.conf", 1) for number, line in enumerate(lines)]
    statements = [statement for statement in found if statement]
    return {files.SYSTEMD: files.systemd_order(statements), files.PROCPS: files.Order(statements)}


class TestPrecedence:
    @pytest.mark.parametrize("tool", [files.SYSTEMD, files.PROCPS])
    @pytest.mark.parametrize(
        ("lines", "value"),
        [
            (["net.ipv4.conf.*.rp_filter=1", "net.ipv4.conf.v0.rp_filter=2"], "2"),
            (["net.ipv4.conf.v0.rp_filter=2", "net.ipv4.conf.*.rp_filter=1"], "2"),
            (["net.ipv4.conf.*.rp_filter=1", "net.ipv4.conf.v?.rp_filter=2"], "2"),
            (["-net.ipv4.conf.v0.rp_filter", "net.ipv4.conf.*.rp_filter=1"], None),
            (["net.ipv4.conf.*.rp_filter=1", "-net.ipv4.conf.v0.rp_filter"], None),
            (["net.ipv4.conf.*.rp_filter=1", "-net.ipv4.conf.v0.rp_filter = 2"], "2"),
            (["-net.ipv4.conf.v0.rp_filter", "net.ipv4.conf.v0.rp_filter=2"], "2"),
        ],
    )
    def test_globs_and_exclusions(self, tool: str, lines: list[str], value: str | None) -> None:
        found = orders(*lines)[tool].winner("net/ipv4/conf/v0/rp_filter")
        assert (found.value if found else None) == value

    def test_only_systemd_lets_an_exclusion_end_an_assignment(self) -> None:
        found = orders("net.ipv4.conf.v0.rp_filter=2", "-net.ipv4.conf.v0.rp_filter")
        assert found[files.SYSTEMD].winner("net/ipv4/conf/v0/rp_filter") is None
        assert found[files.PROCPS].winner("net/ipv4/conf/v0/rp_filter") is not None


# What the programs themselves do. --------------------------------------------------------------------------------

APPLY = """
mount --bind "$1/etc" /etc && mount --bind "$1/run" /run
mount --bind "$1/usr/lib/sysctl.d" /usr/lib/sysctl.d && mount --bind "$1/usr/local/lib" /usr/local/lib
for name in v0 v1 v2.5; do ip link add $name type bridge; done
# A value that was written once is not replaced along with that of "default".
for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $file; done
shift
"$@" > /dev/null 2>&1 || true  # both fail on account of a key that is not there
cd /proc/sys/net
grep -H . ipv4/conf/*/rp_filter ipv4/conf/*/forwarding ipv6/conf/*/forwarding ipv4/conf/all/accept_redirects
"""


def really(root: str, tool: str) -> dict[str, str]:
    """What the kernel has after a program applied the files of C(root), by path."""
    program = [SYSTEMD_SYSCTL] if tool == files.SYSTEMD else [str(PROCPS), "--system"]
    inside = ["unshare", "--net", "--mount", "sh", "-eu", "-c", APPLY, "sh", root, *program]
    done = subprocess.run(inside, check=True, capture_output=True, text=True, timeout=20)
    return dict(f"net/{line}".split(":", 1) for line in done.stdout.splitlines())  # type: ignore[misc]


def names(families: Iterable[str] = ("ipv4",), keys: Iterable[str] = ("rp_filter",)) -> list[str]:
    made = [f"net.{family}.conf.{{}}.{key}" for family in families for key in keys]
    places = ("all", "default", "lo", "v0", "v1", "v2/5", "*", "v?", "[!v]*")
    return [name.format(place) for name in made for place in places]


FILE_NAMES = st.sampled_from(
    [f"{d}/{n}.conf" for d in files.DIRECTORIES[:-1] for n in ("10-a", "9-b", "A", "zz")] + ["/etc/sysctl.conf"]
)


def host_files(keys: list[str], values: list[int]) -> st.SearchStrategy[dict[str, str]]:
    line = st.one_of(
        st.builds("{}={}".format, st.sampled_from(keys), st.sampled_from(values)),
        st.builds("-{} = {}".format, st.sampled_from(keys), st.sampled_from(values)),
        st.sampled_from(keys).map("-{}".format),
        st.just("# nothing"),
    )
    return st.dictionaries(
        FILE_NAMES, st.lists(line, max_size=4).map(lambda lines: "\n".join([*lines, ""])), max_size=4
    )


def made(texts: dict[str, str], folder: Path) -> str:
    root = folder / str(len(list(folder.iterdir())))
    (root / "etc").mkdir(parents=True)
    return tree(root, texts)


@needs_root
@pytest.mark.parametrize(
    "tool",
    [
        pytest.param(
            files.SYSTEMD, marks=pytest.mark.skipif(not os.path.exists(SYSTEMD_SYSCTL), reason="no systemd-sysctl here")
        ),
        pytest.param(files.PROCPS, marks=pytest.mark.skipif(not PROCPS, reason="no sysctl here")),
    ],
)
class TestAgainstTheProgram:
    @settings(
        max_examples=12, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(texts=host_files(names(), [1, 2]))
    @example(texts={"/etc/sysctl.d/zz.conf": RP.format("v0") + "=1\n", "/etc/sysctl.conf": RP.format("v0") + "=2\n"})
    @example(texts={"/etc/sysctl.d/A.conf": RP.format("v0") + "=1\n", "/run/sysctl.d/zz.conf": f"-{RP.format('v0')}\n"})
    def test_the_winner_is_what_the_program_sets(self, tool: str, texts: dict[str, str], tmp_path: Path) -> None:
        root = made(texts, tmp_path)
        found, have = files.scan(root), really(root, tool)
        for name in INTERFACES:
            path = f"net/ipv4/conf/{name}/rp_filter"
            statement = found.orders[tool].winner(path)
            assert (statement.value if statement else "0") == have[path], path

    @settings(
        max_examples=18, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        texts=host_files(
            ["net.ipv4.ip_forward", *names(("ipv4", "ipv6"), ("forwarding",)), "net.ipv4.conf.all.accept_redirects"],
            [0, 1],
        )
    )
    @example(  # the same value again stays at its first place for systemd-sysctl, before what rewrites it
        texts={
            "/etc/sysctl.d/10-a.conf": "net.ipv4.conf.v0.forwarding=0\n",
            "/etc/sysctl.d/9-b.conf": "net.ipv4.ip_forward=1\n",
            "/etc/sysctl.d/zz.conf": "net.ipv4.conf.v0.forwarding=0\n",
        }
    )
    @example(  # nor does it write what is there already
        texts={"/etc/sysctl.d/10-a.conf": "net.ipv6.conf.default.forwarding=1\nnet.ipv6.conf.*.forwarding=0\n"}
    )
    def test_what_is_rewritten_along_is_foreseen(self, tool: str, texts: dict[str, str], tmp_path: Path) -> None:
        root = made(texts, tmp_path)
        found, have = files.scan(root), really(root, tool)
        for path, value in have.items():
            if path.endswith("/rp_filter"):
                continue
            answer = _sysctl_state.after(found, tool, path)
            start = "1" if path.endswith("/accept_redirects") else "0"
            assert (answer[0] if answer else start) == value, path
