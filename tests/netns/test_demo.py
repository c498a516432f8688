"""The whole demo, as `make demo` runs it: claims hold, one that does not is noticed, it can be stopped."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "userspace_proxy.demo"]
MANIFESTS = ROOT / "examples" / "manifests"
TIMEOUT_SECONDS = 240


def test_every_claim_of_the_demo_holds_and_the_readme_shows_what_it_prints() -> None:
    completed = subprocess.run(DEMO, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout.rstrip().endswith("All of them hold.")
    assert "✗" not in completed.stdout
    if shutil.which("kubectl"):  # without it there are other commands
        readme = (ROOT / "README.md").read_text()
        excerpt, *_ = re.findall(r"^```text\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
        assert comparable(excerpt).strip() in comparable(completed.stdout)


def comparable(text: str) -> str:
    """The output less what differs from run to run."""
    text = re.sub(r"hello-[a-z0-9]{1,10}-[a-z0-9]{5}", "hello-POD", text)
    return re.sub(r"\d+ times", "some times", text)


def test_every_claim_about_a_folder_of_manifests_holds() -> None:
    completed = subprocess.run(
        [*DEMO, str(MANIFESTS)], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout.rstrip().endswith("All of them hold.")


def test_a_claim_that_is_not_so_fails_the_demo(tmp_path: Path) -> None:
    manifests = shutil.copytree(MANIFESTS, tmp_path / "manifests")
    sticky = manifests / "sticky.yaml"
    sticky.write_text(sticky.read_text().replace("sessionAffinity: ClientIP", "sessionAffinity: None"))
    completed = subprocess.run(
        [*DEMO, str(manifests)], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert completed.returncode == 1
    assert (
        "  ✗ one endpoint answers every time\n"
        "      expected: one name, 9 times\n"
        "      seen:     web-1 3 times, web-2 3 times, web-3 3 times\n"
    ) in completed.stdout
    assert "not so: one endpoint answers every time" in completed.stdout


def test_a_folder_that_is_none_is_said_in_a_sentence(tmp_path: Path) -> None:
    completed = subprocess.run([*DEMO, str(tmp_path / "none")], capture_output=True, text=True, timeout=30)
    assert completed.returncode == 2
    assert completed.stderr == f"demo: {tmp_path}/none is not a directory; name one like examples/manifests\n"


def test_it_says_what_it_is_and_what_it_takes() -> None:
    completed = subprocess.run([*DEMO, "--help"], capture_output=True, text=True, timeout=30)
    assert completed.returncode == 0
    assert completed.stdout.startswith("usage: python -m userspace_proxy.demo")
    assert "examples/manifests" in completed.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_stops_when_told_to_and_leaves_nothing(number: signal.Signals) -> None:
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert demo.stdout is not None and demo.stderr is not None
    with demo.stdout, demo.stderr:
        for line in demo.stdout:
            if "✓" in line:
                break
        demo.send_signal(number)
        said = demo.stderr.read()  # to the end: every process that the demo had started has closed it
        assert demo.wait(timeout=TIMEOUT_SECONDS) == 128 + number
    assert said == "\ndemo: stopped; everything is gone with its namespaces\n"
