from __future__ import annotations

import pytest

from userspace_proxy.sources.in_cluster import own_service

BY_KUBELET = {
    "KUBERNETES_PORT": "tcp://10.96.0.1:443",
    "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443",
    "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
}


def test_what_kubelet_puts_there_is_a_service_that_nobody_serves_yet() -> None:
    text = own_service(BY_KUBELET)
    assert text is not None
    assert text.startswith(
        "KUBERNETES_SERVICE_HOST=10.96.0.1 is the address of the Service default/kubernetes"
    )
    assert "--master=https://" in text


@pytest.mark.parametrize(
    "environment",
    [
        {**BY_KUBELET, "KUBERNETES_SERVICE_HOST": "192.0.2.10"},
        {"KUBERNETES_SERVICE_HOST": "192.0.2.10", "KUBERNETES_SERVICE_PORT": "6443"},
        {"KUBERNETES_SERVICE_HOST": "", "KUBERNETES_PORT_443_TCP_ADDR": ""},
        {},
    ],
)
def test_a_server_itself_needs_no_explanation(environment: dict[str, str]) -> None:
    assert own_service(environment) is None
