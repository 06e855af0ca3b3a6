# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What sysctl_forwarding did is undone: in the kernel with all it rewrote along, in a file that others share."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ansible_collections.crosshost.doctor.plugins.module_utils import _netns
from ansible_collections.crosshost.doctor.plugins.module_utils import _sysctl_kernel as kernel
from ansible_collections.crosshost.doctor.plugins.module_utils import _sysctl_own_file as own_file
from ansible_collections.crosshost.doctor.plugins.module_utils import _sysctl_plan as planning
from ansible_collections.crosshost.doctor.plugins.module_utils._journal import Journal
from tests.unit.plugins.module_utils.namespace import namespace, needs_root, run

RP, FORWARD, SWITCH = "net/ipv4/conf/eth0/rp_filter", "net/ipv4/conf/br0/forwarding", "net/ipv4/ip_forward"
BY_HAND = "# by hand\nnet.ipv4.ip_forward=0\n\nnet.ipv4.conf.eth0.rp_filter =  1 \nvm.swappiness = 3"


class TestFile:
    @pytest.mark.parametrize("before", [None, "", own_file.HEADER, BY_HAND, f"{BY_HAND}\nnet.ipv4.ip_forward = 1\n"])
    def test_what_nobody_else_touched_comes_back_byte_for_byte(self, before: str | None) -> None:
        edited = own_file.edit(before, {SWITCH: "2", RP: "2"})
        assert own_file.take_back(before, edited, [SWITCH, RP]) == before

    def test_the_lines_of_the_second_stay_when_the_first_is_undone(self) -> None:
        first = own_file.edit(None, {RP: "2"})
        second = own_file.edit(first, {FORWARD: "1"})
        left = own_file.take_back(None, second, [RP])
        assert left == f"{own_file.HEADER}net.ipv4.conf.br0.forwarding = 1\n"
        assert own_file.take_back(first, left, [FORWARD]) is None

    def test_a_line_somebody_added_stays(self) -> None:
        edited = own_file.edit(BY_HAND, {RP: "2"})
        assert own_file.take_back(BY_HAND, f"{edited}vm.dirty_ratio = 9\n", [RP]) == (
            "# by hand\nnet.ipv4.ip_forward=0\n\nnet.ipv4.conf.eth0.rp_filter = 1\n"
            "vm.swappiness = 3\nvm.dirty_ratio = 9\n"
        )

    def test_a_change_that_was_noted_and_never_made_undoes_nothing(self) -> None:
        twice = "net.ipv4.ip_forward=0\nnet.ipv4.ip_forward=1\n"
        assert own_file.take_back(twice, twice, [SWITCH]) == twice
        assert own_file.take_back(None, None, [SWITCH]) is None

    def test_a_file_that_somebody_removed_gets_back_what_was_in_it_about_the_keys(self) -> None:
        assert own_file.take_back(BY_HAND, None, [SWITCH]) == f"{own_file.HEADER}net.ipv4.ip_forward = 0\n"
        assert own_file.take_back(None, None, [SWITCH]) is None

    @given(
        before=st.one_of(
            st.none(),
            st.lists(st.sampled_from(["# x", "", "vm.a=1", f"{SWITCH}=0", f"{RP} = 1", f"-{FORWARD}=0"])).map(
                "\n".join
            ),
        ),
        first=st.dictionaries(st.sampled_from([RP, SWITCH]), st.sampled_from("012"), min_size=1),
        second=st.dictionaries(st.sampled_from([FORWARD, "net/core/somaxconn"]), st.sampled_from("012"), min_size=1),
    )
    def test_two_changes_are_undone_in_any_order(
        self, before: str | None, first: dict[str, str], second: dict[str, str]
    ) -> None:
        once = own_file.edit(before, first)
        twice = own_file.edit(once, second)
        assert own_file.take_back(before, own_file.take_back(once, twice, second), first) == before
        left = own_file.take_back(before, twice, first)
        assert own_file.values(left, second) == second
        named = [*first, *second]
        assume(own_file.edit(before, {}) == before)
        done = own_file.take_back(once, left, second)
        assert own_file.values(done, named) == own_file.values(before, named)


class TestJournal:
    def test_a_shared_file_on_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(own_file, "_OWN_FILE", re.compile(r".*\.conf"))
        file = tmp_path / "sysctl.d" / "zz.conf"
        one, other = (Journal(name, str(tmp_path / "journal")) for name in ("one", "other"))
        texts: list[str | None] = [None]
        for journal, key in ((one, RP), (other, FORWARD)):
            journal.sysctl_lines(str(file), [key])
            texts.append(own_file.edit(texts[-1], {key: "1"}))
            file.parent.mkdir(exist_ok=True)
            file.write_text(texts[-1] or "")
            file.chmod(0o644)
        assert [row["error"] for row in one.roll_back()] == [None]
        assert file.read_text() == f"{own_file.HEADER}net.ipv4.conf.br0.forwarding = 1\n"
        assert file.stat().st_mode & 0o777 == 0o644
        assert [row["error"] for row in other.roll_back()] == [None]
        assert not file.exists()

    def test_mode_and_bytes_of_an_untouched_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(own_file, "_OWN_FILE", re.compile(r".*\.conf"))
        file = tmp_path / "zz.conf"
        file.write_text(BY_HAND)
        file.chmod(0o600)
        before = file.stat()
        journal = Journal("one", str(tmp_path / "journal"))
        journal.sysctl_lines(str(file), [RP])
        own_file.replace(
            "/", str(file), own_file.edit(BY_HAND, {RP: "2"}), lambda new, old: Path(new).replace(old) and None
        )
        assert [row["error"] for row in journal.roll_back()] == [None]
        after = file.stat()
        assert (file.read_text(), after.st_mode, after.st_mtime_ns) == (BY_HAND, before.st_mode, before.st_mtime_ns)


@needs_root
class TestKernel:
    @pytest.mark.parametrize(
        ("start", "settings"),
        [
            ("", {"net.ipv4.ip_forward": 1}),
            # What one variable rewrites along was not all the same before.
            (
                "net.ipv4.conf.v0.forwarding=1 net.ipv4.conf.all.accept_redirects=0",
                {"net.ipv4.ip_forward": 1, "net.ipv4.conf.v0.rp_filter": 2},
            ),
            ("net.ipv4.ip_forward=1 net.ipv4.conf.v0.forwarding=0", {"net.ipv4.conf.v0.forwarding": 1}),
            ("net.ipv4.ip_forward=1 net.ipv4.conf.v0.forwarding=0", {"net.ipv4.conf.all.forwarding": 0}),
            ("net.ipv6.conf.v0.forwarding=1", {"net.ipv6.conf.all.forwarding": 1, "net.ipv4.ip_forward": 1}),
            ("net.ipv6.conf.v0.disable_ipv6=1", {"net.ipv6.conf.all.disable_ipv6": 1}),
        ],
    )
    def test_every_value_comes_back(self, tmp_path: Path, start: str, settings: dict[str, int]) -> None:
        (tmp_path / "etc/sysctl.d").mkdir(parents=True)
        (tmp_path / "proc").symlink_to("/proc")
        journal = Journal("one", str(tmp_path / "journal"))
        with namespace() as name:
            run(name, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1.5")
            for assignment in start.split():
                run(name, "sysctl", "-qw", assignment)
            with _netns.inside(f"/run/netns/{name}"):
                before = kernel.Runtime().snapshot()
                plan = planning.make(settings, True, own_file.DEFAULT_PATH, False, str(tmp_path), persistent=False)
                planning.note(plan, journal)
                planning.apply(plan, str(tmp_path), lambda new, old: None)
                assert kernel.Runtime().snapshot() != before
                assert [row["error"] for row in journal.roll_back() if row["error"]] == []
                assert kernel.Runtime().snapshot() == before
