"""A run's page and pictures have everything that was measured."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.results import Results, require_folder
from benchmarks.samples import Samples
from benchmarks.studies import Step
from userspace_proxy.errors import UsageError

pytest.importorskip("matplotlib", reason="plots need the extra `bench`")


@pytest.fixture
def results() -> Results:
    samples = Samples()
    for number in range(3):
        for peer, rate in (("ours", 40_000.0), ("nginx", 20_000.0)):
            samples.add("http", peer, number, {"rate": rate + number, "cpu": rate / 1000})
        samples.add("http", "kernel", number, {"rate": 80_000.0})
    steps = [Step("ours", services, {"cpu": 100.0, "change": 4.0}) for services in (100, 10_000)]
    return Results(
        date="2026-01-02 03:04 UTC",
        rounds=3,
        seconds=5,
        peers=["ours", "kernel", "nginx"],
        machine={"CPU": "a fast one, 2 cores"},
        samples=samples,
        studies={"services": steps},
        failures=["http, round 4, nginx: it fell over"],
    )


def test_the_page_has_figures_ratios_targets_limits_machine_and_failures(results: Results) -> None:
    page = results.as_markdown()
    for text in (
        "2026-01-02 03:04 UTC",
        "40.0k (40.0k-40.0k)",
        "| HTTP keep-alive, 64 clients: requests/s",
        "| ≥ 1 of nginx or haproxy | 2.00 (2.00-2)",
        "| 10.0k    | - ",
        "a fast one, 2 cores",
        "it fell over",
    ):
        assert text in page


def test_files_are_written_beside_each_other(results: Results, tmp_path: Path) -> None:
    page = results.write(tmp_path, "latest")
    names = {path.name for path in page.parent.iterdir()}
    pictures = {"latest-rates.svg", "latest-cpu.svg", "latest-growth.svg"}
    assert names == {"latest.md", "latest.json", *pictures}
    assert all(f"]({picture})" in page.read_text() for picture in pictures)
    assert json.loads((tmp_path / "latest.json").read_text())["machine"] == results.machine


def test_a_folder_is_made_or_refused_before_the_work(tmp_path: Path) -> None:
    require_folder(tmp_path / "some" / "where")
    assert (tmp_path / "some" / "where").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--output: .*file/below cannot be written to"):
        require_folder(tmp_path / "file" / "below")


def test_pictures_name_what_they_show(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path, "latest")
    shown = "".join(ElementTree.parse(tmp_path / "latest-rates.svg").getroot().itertext())
    for text in ("HTTP keep-alive, 64 clients", "requests/s", "ours", "nginx", "kernel"):
        assert text in shown
