"""Which way the node's network leads; rtnetlink(7)."""

from __future__ import annotations

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from userspace_proxy.netlink.node_network import NodeNetworkError


def interface_towards(address: str) -> str | None:
    """The interface by which the node sends to an address, and so, most likely, hears from it; None: no way.

    Blocks; for a thread without a running event loop. Raises NodeNetworkError.
    """
    try:
        with IPRoute() as netlink:
            for route in netlink.route("get", dst=address):
                for link in netlink.get_links(route.get_attr("RTA_OIF")):
                    return str(link.get_attr("IFLA_IFNAME"))
    except NetlinkError:
        return None
    except OSError as error:
        raise NodeNetworkError(f"cannot ask for the way to {address}: {error}") from error
    return None
