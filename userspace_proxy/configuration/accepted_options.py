"""What kube-proxy takes and we have no use for: flags and fields that are accepted, and said to be ignored.

Whoever comes from kube-proxy need not change a line. A field that says no more than its zero (`""`, `0s`,
`false`, null), as most of those that kubeadm writes, is not worth a word.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Why(Enum):
    """Why it has no effect, for the log."""

    OTHER_MODES = "for modes in which the kernel makes the connections"
    NO_SERVER = "for the HTTP servers of kube-proxy"
    LOG = "for where and how kube-proxy logs and names its machine"
    CLIENT = "for kube-proxy's own API client"
    WINDOWS = "for Windows"


_OTHER_MODES: Final = {
    "--iptables-localhost-nodeports": "iptables.localhostNodePorts",
    "--iptables-masquerade-bit": "iptables.masqueradeBit",
    "--masquerade-all": "iptables.masqueradeAll",
    "--ipvs-exclude-cidrs": "ipvs.excludeCIDRs",
    "--ipvs-min-sync-period": "ipvs.minSyncPeriod",
    "--ipvs-scheduler": "ipvs.scheduler",
    "--ipvs-strict-arp": "ipvs.strictARP",
    "--ipvs-sync-period": "ipvs.syncPeriod",
    "--ipvs-tcp-timeout": "ipvs.tcpTimeout",
    "--ipvs-tcpfin-timeout": "ipvs.tcpFinTimeout",
    "--ipvs-udp-timeout": "ipvs.udpTimeout",
    "--cleanup-ipvs": "",
    "--nftables-masquerade-bit": "nftables.masqueradeBit",
    "--nftables-masquerade-all": "nftables.masqueradeAll",
    "--nftables-min-sync-period": "nftables.minSyncPeriod",
    "--nftables-sync-period": "nftables.syncPeriod",
    "--feature-gates": "featureGates",
    "--bind-address-hard-fail": "bindAddressHardFail",
    "--conntrack-max": "conntrack.max",
}
_SERVERS: Final = {
    "--healthz-port": "",
    "--metrics-port": "",
    "--profiling": "enableProfiling",
    "--show-hidden-metrics-for-version": "showHiddenMetricsForVersion",
}
_LOG: Final = {
    "--add-dir-header": "",
    "--alsologtostderr": "",
    "--boot-id-file": "",
    "--log-backtrace-at": "",
    "--log-dir": "",
    "--log-file": "",
    "--log-file-max-size": "",
    "--log-flush-frequency": "logging.flushFrequency",
    "--log-json-info-buffer-size": "logging.options.json",
    "--log-json-split-stream": "",
    "--log-text-info-buffer-size": "logging.options.text",
    "--log-text-split-stream": "",
    "--logtostderr": "",
    "--machine-id-file": "",
    "--one-output": "",
    "--skip-headers": "",
    "--skip-log-headers": "",
    "--stderrthreshold": "",
    "--vmodule": "logging.vmodule",
}
_CLIENT: Final = {
    "--kube-api-content-type": "clientConnection.contentType",
    "": "clientConnection.acceptContentTypes",
}
_WINDOWS: Final = {
    "--enable-dsr": "winkernel.enableDSR",
    "--forward-healthcheck-vip": "winkernel.forwardHealthCheckVip",
    "--network-name": "winkernel.networkName",
    "--root-hnsendpoint-name": "winkernel.rootHnsEndpointName",
    "--source-vip": "winkernel.sourceVip",
    "--windows-service": "windowsRunAsService",
}
_BY_REASON: Final = {
    Why.OTHER_MODES: _OTHER_MODES,
    Why.NO_SERVER: _SERVERS,
    Why.LOG: _LOG,
    Why.CLIENT: _CLIENT,
    Why.WINDOWS: _WINDOWS,
}

BOOLEAN_FLAGS: Final = frozenset(
    {
        "--add-dir-header",
        "--alsologtostderr",
        "--bind-address-hard-fail",
        "--cleanup-ipvs",
        "--enable-dsr",
        "--forward-healthcheck-vip",
        "--ipvs-strict-arp",
        "--iptables-localhost-nodeports",
        "--log-json-split-stream",
        "--log-text-split-stream",
        "--logtostderr",
        "--masquerade-all",
        "--nftables-masquerade-all",
        "--one-output",
        "--profiling",
        "--skip-headers",
        "--skip-log-headers",
        "--windows-service",
    }
)
"""Those that may stand without a value."""
ACCEPTED_FLAGS: Final = {flag: why for why, flags in _BY_REASON.items() for flag in flags if flag}
ACCEPTED_FIELDS: Final = {
    field: why for why, flags in _BY_REASON.items() for field in flags.values() if field
}
PAIRS: Final = tuple((flag, field, why) for why, flags in _BY_REASON.items() for flag, field in flags.items())
"""Flag, field ("" where there is none) and reason of each."""
