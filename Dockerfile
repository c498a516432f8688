# The image of the node agent. It takes kube-proxy's place: /usr/local/bin/kube-proxy understands its arguments.
#
#   docker build -t userspace-proxy .
#
# It needs NET_ADMIN and NET_RAW, the host's network, and these folders of the host: /run/userspace-proxy, where the
# next agent finds this one's workers, and /run/xtables.lock. Its own root can be read-only.

FROM python:3.12-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN python -m venv /opt/userspace-proxy && /opt/userspace-proxy/bin/pip install --no-cache-dir /source

FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends iptables kmod && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/userspace-proxy /opt/userspace-proxy
RUN ln -s /opt/userspace-proxy/bin/userspace-proxy /opt/userspace-proxy/bin/kube-proxy /usr/local/bin/
# The agent itself is root, for rules; its workers, who meet clients, are nobody, without a capability.
ENTRYPOINT ["/usr/local/bin/userspace-proxy"]
CMD ["supervise", "--", "run"]
