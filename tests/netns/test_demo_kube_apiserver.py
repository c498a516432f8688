"""A demo cluster with a kube-apiserver: a real one where there is one, and one that is called alike."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.netns.test_demo_cluster import Demo
from tests.support.api_servers import API_SERVERS
from tests.support.fake_kube_apiserver import install

[REAL] = [parameter for parameter in API_SERVERS if parameter.id == "kube-apiserver"]
FLAGS = ("up", "--nodes", "1", "--apiserver", "kube-apiserver")


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    demo = Demo(tmp_path / "cluster")
    demo.environment["KUBEBUILDER_ASSETS"] = str(tmp_path)
    return demo


@pytest.mark.parametrize("which", ["fake", REAL])
def test_the_cluster_runs_on_it(demo: Demo, tmp_path: Path, which: str) -> None:
    if which == "fake":
        install(tmp_path)
    else:
        demo.environment["KUBEBUILDER_ASSETS"] = os.environ["KUBEBUILDER_ASSETS"]
    try:
        demo.said(*FLAGS)
        assert all(pod.is_ready for pod in demo.status().pods)
        assert "here, in default on node-1" in demo.said("exec", "client", "curl", "-s", "http://web")
        assert (demo.folder / "logs" / "kube-apiserver.log").exists()
    finally:
        assert demo("down").returncode == 0
    assert not demo.folder.exists()


def test_one_that_does_not_start_is_said(demo: Demo, tmp_path: Path) -> None:
    install(tmp_path, etcd="echo no space left; exit 3")
    completed = demo(*FLAGS)
    assert completed.returncode == 1
    assert completed.stderr == "userspace-proxy: etcd has ended with 3. Its log ends:\nno space left\n"
    assert not demo.folder.exists()


def test_what_is_missing_is_named(demo: Demo) -> None:
    completed = demo(*FLAGS)
    assert completed.returncode == 1
    assert "etcd and kube-apiserver cannot be found: put them on PATH" in completed.stderr
