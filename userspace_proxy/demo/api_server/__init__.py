"""The demo cluster's API server, which kubectl and the node agents speak to: objects in, Services given their
addresses, watches told.

`server` puts it together. `routes` is HTTP, with `requests` (what one brings) and `rendering` (what it gets);
`reads` are lists, `watches` what they are called, `writer` everything that writes. They stand on `store` (one
order of all writes, and history), and that on `database` (SQLite). Everything else is pure: resources
(`kinds`, `paths`) and their types (`schemas`, `decoding`, `protobuf`); what is written (`defaults`,
`allocation`, `service_changes`, `validation`, `lifecycle`, `patches`, `scale`); what is shown (`selectors`,
`tables`, `cells`, `statuses`); and what the server says of itself (`discovery`, `openapi`).
`certificates` and `kubeconfig` are for whoever sets a cluster up.

It keeps and checks objects and never acts on them: pods, endpoints, garbage and the emptying of namespaces
are the controllers'. What it does not do - server-side apply, admission, access control, other kinds -
it says in a Status. It reads nothing of the rest of the demo, and nobody's state but its database.
"""

from userspace_proxy.demo.api_server.pod_logs import LogRequest, PodLogs, PodLogsError
from userspace_proxy.demo.api_server.server import ApiServer

__all__ = ["ApiServer", "LogRequest", "PodLogs", "PodLogsError"]
