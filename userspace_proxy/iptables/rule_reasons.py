"""Why a rule is there, in a sentence, from the rule itself: for people who look at what is installed."""

from __future__ import annotations

from collections.abc import Mapping

from userspace_proxy.core.service_port import ProxyPort, host_port
from userspace_proxy.iptables.chains import (
    NODEPORT_CONTAINER,
    NODEPORT_HOST,
    PORTALS_CONTAINER,
    PORTALS_GUARD,
    PORTALS_HOST,
    Chain,
    Side,
    is_ours,
    side_of,
)
from userspace_proxy.iptables.portal_rules import NOT_WELCOME, WHY_REFUSED, Refusal
from userspace_proxy.iptables.rules import (
    ConntrackState,
    Dnat,
    Foreign,
    Jump,
    Redirect,
    Reject,
    Rule,
    Verdict,
    spelled_ports,
)

_WHAT_COMES: Mapping[Side, str] = {
    Side.CONTAINER: "what pods and others send",
    Side.HOST: "what the node's own processes send",
    Side.BOTH: "what anybody sends",
}
_REFUSED: Mapping[Refusal, str] = {
    Refusal.REJECT: "has no usable endpoint: {what} is refused at once, at a port where nobody listens",
    Refusal.NO_LISTENER: "has no listener, for want of a port or a descriptor: {what} is refused at once",
    Refusal.DROP: "has no usable endpoint on this node and others have: {what} gets no answer",
}


def service_port_of(rule: Rule | Foreign) -> str | None:
    """The Service port (`namespace/name:port`) that a rule of ours captures for; None if it does not."""
    if not isinstance(rule, Rule) or not isinstance(rule.target, Redirect | Dnat):
        return None
    label = rule.comment.removesuffix(NOT_WELCOME)
    for why in WHY_REFUSED.values():
        label = label.removesuffix(why)
    return label


def reason_for(chain: Chain, rule: Rule | Foreign) -> str:
    """Why a rule stands in a chain of ours, or jumps to one from elsewhere."""
    if isinstance(rule, Foreign):
        return "Somebody else's, in a chain of ours: it is removed at the next look."
    match rule.target:
        case Redirect(port) | Dnat(_, port):
            return _why_captured(chain, rule, ProxyPort(port))
        case Jump() if not is_ours(chain):
            return _why_hooked(chain, rule.target.chain)
        case Jump():
            return f"Portals {_part(rule)} are in that chain."
        case _:
            return _why_guarded(rule)


def _why_captured(chain: Chain, rule: Rule, port: ProxyPort) -> str:
    name = service_port_of(rule)
    what = f"{_WHAT_COMES[side_of(chain)]} to {_frontend(rule)}"
    if rule.in_interface:
        what += f" by {rule.in_interface}"
    if rule.source:
        what += f" from {rule.source}"
    if rule.comment.endswith(NOT_WELCOME):
        return f"{name} is not for everybody: {what} from outside its source ranges gets no answer."
    for refusal, why in WHY_REFUSED.items():
        if rule.comment.endswith(why):
            return f"{name} {_REFUSED[refusal].format(what=what)}."
    return f"{name} takes {what}, at proxy port {port}."


def _frontend(rule: Rule) -> str:
    assert rule.destination_ports and rule.protocol
    port = f"{spelled_ports(rule.destination_ports)}/{rule.protocol.value}"
    if rule.destination is None:
        return f"port {port} of this node"
    return host_port(rule.destination, port)


def _part(rule: Rule) -> str:
    parts = []
    if rule.destination:
        parts.append(f"in {rule.destination}" if "/" in rule.destination else f"at {rule.destination}")
    if rule.protocol:
        parts.append(f"for {rule.protocol.value}")
    if rule.destination_ports:
        parts.append(f"with ports {spelled_ports(rule.destination_ports)}")
    return " ".join(parts)


_HOOKS: Mapping[str, str] = {
    PORTALS_CONTAINER.name: "What comes in, from pods and others, is compared with the Services' addresses.",
    PORTALS_HOST.name: "What the node's own processes send is compared with the Services' addresses.",
    NODEPORT_CONTAINER.name: "What comes in to an address of this node is compared with NodePorts.",
    NODEPORT_HOST.name: "What the node sends to an address of its own is compared with NodePorts.",
}


def _why_hooked(chain: Chain, target: str) -> str:
    if target != PORTALS_GUARD.name:
        return _HOOKS[target]
    if chain.name == "OUTPUT":
        return "What the node itself is to get no answer to is dropped before it leaves a conntrack entry."
    return "Proxy ports take redirected traffic only: the guard looks at what they get."


def _why_guarded(rule: Rule) -> str:
    if any(match.negated and ConntrackState.DNAT in match.states for match in rule.states):
        return "Nobody has redirected this to a proxy port, so it was sent there directly: dropped."
    match rule.target:
        case Reject():
            return "The port to which Services without endpoints lead: refused at once."
        case Verdict.DROP:
            return "The port to which Services lead that are to give no answer: dropped."
        case _:
            return "Redirected to a proxy port by a rule of ours: let in."
