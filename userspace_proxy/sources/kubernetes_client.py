"""What is used of kubernetes_asyncio: configuration, authentication, transport. No other file imports it.

As a whole it brings a class for every kind and every group of Kubernetes' API, none of which is used here:
2 s of CPU at each start, and 60 MiB for as long as the agent runs. So these parts are imported without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from userspace_proxy.partial_import import bare_packages

__all__ = ["ApiClient", "ConfigException", "Configuration", "load_incluster_config", "load_kube_config"]

if TYPE_CHECKING:
    from kubernetes_asyncio.client import ApiClient, Configuration
    from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config
else:
    try:
        with bare_packages(
            "kubernetes_asyncio", "kubernetes_asyncio.client", "kubernetes_asyncio.client.models"
        ):
            from kubernetes_asyncio import client
            from kubernetes_asyncio.client.api_client import ApiClient
            from kubernetes_asyncio.client.configuration import Configuration

            client.ApiClient, client.Configuration = ApiClient, Configuration  # where `config` looks for them
            from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config
    except (ImportError, AttributeError):  # a release with other rooms: all of it, then
        from kubernetes_asyncio.client import ApiClient, Configuration
        from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config
