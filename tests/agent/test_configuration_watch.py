from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.recorded_events import RecordedEvents
from userspace_proxy.agent.configuration_watch import watch_configuration
from userspace_proxy.configuration.agent_configuration import Configuration
from userspace_proxy.configuration.loading import LiveConfiguration
from userspace_proxy.errors import SourceError

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


def replace(path: Path, text: str) -> None:
    """Write a file so that nobody sees half of it."""
    whole = path.with_suffix(".new")
    whole.write_text(text)
    whole.rename(path)


class Scene:
    """A configuration file and a kubeconfig, the agent that follows them, and what it was told."""

    def __init__(self, folder: Path, fields: str) -> None:
        self.file, self.kubeconfig = folder / "config.conf", folder / "kubeconfig"
        self.kubeconfig.write_text("{}")
        self.write(fields)
        self.live = LiveConfiguration(
            {"hostname_override": "node-1"}, environment={}, file=self.file, wait=self._wait
        )
        self.applied: list[Configuration] = []
        self.events = RecordedEvents()
        self.renewed = 0
        self.renewal: Exception | None = None

    def _wait(self, ended: threading.Event, seconds: float) -> bool:
        return ended.wait(0.01)

    def write(self, fields: str) -> None:
        replace(self.file, f"{HEAD}clientConnection: {{kubeconfig: {self.kubeconfig}}}\n{fields}")

    async def _apply(self, configuration: Configuration) -> None:
        self.applied.append(configuration)

    async def _renew(self) -> None:
        self.renewed += 1
        if self.renewal is not None:
            raise self.renewal

    def play(self, act: Callable[[], Awaitable[None]]) -> None:
        async def scene() -> None:
            watching = asyncio.ensure_future(
                watch_configuration(self.live, self._apply, self._renew, self.events)
            )
            try:
                async with asyncio.timeout(30):
                    await act()
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

        asyncio.run(scene())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_what_can_change_at_once_does_and_what_cannot_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scene = Scene(tmp_path, "")

    async def act() -> None:
        scene.write("nodePortAddresses: [primary]\nportRange: 12000-12999\nipvs: {scheduler: rr}\n")
        await until(lambda: any("takes effect at the next start" in text for text in caplog.messages))

    scene.play(act)
    ((configuration),) = scene.applied
    assert configuration.nodeport_addresses == ("primary",)
    assert scene.live.configuration == configuration
    assert str(configuration.proxy_port_range) == "11000-29999"
    assert caplog.messages == [
        "Ignored, for modes in which the kernel makes the connections: ipvs.scheduler",
        f"Configuration reloaded: {scene.file}: nodePortAddresses",
        f"Configuration changed, takes effect at the next start: {scene.file}: portRange",
    ]
    assert scene.events.said == ["RestartNeeded"]


@pytest.mark.parametrize("broken", ["nodePortAddresses: [x]\n", "a: [", "kind: Pod\n"])
def test_a_broken_file_is_named_and_what_was_in_force_stays(
    tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scene = Scene(tmp_path, "nodePortAddresses: [primary]\n")
    before = scene.live.configuration

    async def act() -> None:
        scene.write(broken)
        await until(lambda: caplog.messages)
        assert scene.live.configuration == before
        scene.write("nodePortAddresses: [10.0.0.0/8]\n")
        await until(lambda: scene.applied)

    scene.play(act)
    assert caplog.messages[0].startswith(
        f"Configuration not reloaded, what was in force stays so: {scene.file}: "
    )
    assert scene.live.configuration.nodeport_addresses == ("10.0.0.0/8",)
    assert scene.events.said == ["InvalidConfiguration"]


def test_a_file_that_is_gone_is_named_and_may_come_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scene = Scene(tmp_path, "")

    async def act() -> None:
        scene.file.unlink()
        await until(lambda: any("cannot be read" in text for text in caplog.messages))
        scene.write("# the same\n")
        await until(lambda: "Configuration read again: nothing differs" in caplog.messages)

    scene.play(act)
    assert scene.applied == []


def test_a_kubeconfig_that_has_changed_is_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scene = Scene(tmp_path, "")

    async def act() -> None:
        scene.renewal = SourceError("cannot use it")
        replace(scene.kubeconfig, "{broken")
        await until(lambda: len(caplog.messages) == 1)
        scene.renewal = None
        replace(scene.kubeconfig, "{good: again}")
        await until(lambda: len(caplog.messages) == 2)

    scene.play(act)
    assert caplog.messages == [
        "Kubeconfig not reloaded, what was in force stays so: cannot use it",
        f"Kubeconfig reloaded: {scene.kubeconfig}",
    ]
    assert (scene.renewed, scene.applied) == (2, [])
    assert scene.events.notes == [f"{scene.kubeconfig} was not reloaded: cannot use it"]
