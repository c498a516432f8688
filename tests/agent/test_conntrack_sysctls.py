from __future__ import annotations

from pathlib import Path

import pytest

from userspace_proxy.agent.conntrack_sysctls import set_conntrack_sysctls, wanted_max, wanted_sysctls
from userspace_proxy.configuration.agent_configuration import ConntrackSettings

NOTHING = ConntrackSettings(0, 131072, 0, 0, False, 0, 0)
SYSCTLS = {
    "nf_conntrack_max": 1000,
    "nf_conntrack_tcp_timeout_established": 432000,
    "nf_conntrack_tcp_timeout_close_wait": 60,
    "nf_conntrack_tcp_be_liberal": 0,
    "nf_conntrack_udp_timeout": 30,
    "nf_conntrack_udp_timeout_stream": 120,
}


class Sysctls:
    """A folder as /proc/sys/net/netfilter is one, and the size of the hash table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "netfilter"
        self.folder.mkdir()
        self.hashsize = folder / "hashsize"
        self.hashsize.write_text("256\n")
        for name, value in SYSCTLS.items():
            (self.folder / name).write_text(f"{value}\n")

    def set(self, settings: ConntrackSettings) -> None:
        set_conntrack_sysctls(settings, folder=self.folder, hashsize=self.hashsize)

    @property
    def changed(self) -> dict[str, int]:
        present = {path.name: int(path.read_text()) for path in (*self.folder.iterdir(), self.hashsize)}
        return {name: value for name, value in present.items() if {**SYSCTLS, "hashsize": 256}[name] != value}


@pytest.fixture
def sysctls(tmp_path: Path) -> Sysctls:
    return Sysctls(tmp_path)


@pytest.mark.parametrize(
    ("max_per_core", "least", "cores", "most"),
    [(32768, 131072, 2, 131072), (32768, 131072, 8, 262144), (0, 131072, 8, 0), (32768, 0, 1000, 1 << 20)],
)
def test_room_grows_with_the_cores(max_per_core: int, least: int, cores: int, most: int) -> None:
    assert wanted_max(ConntrackSettings(max_per_core, least, 0, 0, False, 0, 0), cores) == most


def test_nothing_asked_for_is_nothing_done(sysctls: Sysctls, caplog: pytest.LogCaptureFixture) -> None:
    sysctls.set(NOTHING)
    assert sysctls.changed == {}
    assert caplog.records == []


def test_room_is_raised_and_the_hash_table_with_it(sysctls: Sysctls) -> None:
    sysctls.set(ConntrackSettings(1, 4000, 0, 0, False, 0, 0))
    assert sysctls.changed == {"nf_conntrack_max": 4000, "hashsize": 1000}


def test_room_is_never_made_smaller(sysctls: Sysctls) -> None:
    sysctls.set(ConntrackSettings(1, 500, 0, 0, False, 0, 0))
    assert sysctls.changed == {}


def test_timeouts_become_what_is_said_longer_or_shorter(sysctls: Sysctls) -> None:
    settings = ConntrackSettings(0, 0, 86400, 3600, True, 10, 20)
    sysctls.set(settings)
    assert sysctls.changed == wanted_sysctls(settings)
    assert sysctls.changed["nf_conntrack_tcp_timeout_established"] == 86400
    assert sysctls.changed["nf_conntrack_tcp_timeout_close_wait"] == 3600


def test_what_cannot_be_set_is_named_and_the_rest_is_set(
    sysctls: Sysctls, caplog: pytest.LogCaptureFixture
) -> None:
    (sysctls.folder / "nf_conntrack_tcp_timeout_established").unlink()
    (sysctls.folder / "nf_conntrack_max").unlink()
    sysctls.set(ConntrackSettings(1, 4000, 86400, 3600, False, 0, 0))
    present = int((sysctls.folder / "nf_conntrack_tcp_timeout_close_wait").read_text())
    assert (present, sysctls.hashsize.read_text()) == (3600, "256\n")
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "Conntrack settings stay as they are: nf_conntrack_max (No such file or directory); "
        "nf_conntrack_tcp_timeout_established (No such file or directory)"
    ]
