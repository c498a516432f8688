"""`eject` and `uneject`: an operator takes an endpoint out, and puts it back."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from time import monotonic

from userspace_proxy.admin.protocol import AdminError, ErrorCode
from userspace_proxy.admin.server import Method
from userspace_proxy.agent.live_answers import Named, parsed_endpoint
from userspace_proxy.agent.operator_ejections import OperatorEjections
from userspace_proxy.agent.proxier import Proxier
from userspace_proxy.core.answers.ejections import Ejection, EjectParameters, UnejectParameters
from userspace_proxy.core.manual_ejections import EndpointOf, classes_left_with_none, endpoints_at
from userspace_proxy.core.service_port import ServicePortName

logger = logging.getLogger(__name__)


class Ejecting:
    """Changes `ejections`, and has `proxier` tell the workers. `named` says whom a text means."""

    def __init__(self, ejections: OperatorEjections, proxier: Proxier, named: Named) -> None:
        self._ejections = ejections.known
        self._proxier = proxier
        self._named = named

    def methods(self) -> Mapping[str, Method]:
        """For the admin socket."""
        return {
            "eject": Method(self._eject, EjectParameters),
            "uneject": Method(self._uneject, UnejectParameters),
        }

    async def _eject(self, asked: EjectParameters) -> AsyncGenerator[Ejection, None]:
        if asked.seconds is not None and not 0 < asked.seconds < float("inf"):
            raise AdminError(ErrorCode.BAD_REQUEST, f"{asked.seconds:g} s is no time to be taken out")
        found = self._found(asked.endpoint, asked.service)
        if not asked.force:
            self._require_others(found)
        until = None if asked.seconds is None else monotonic() + asked.seconds
        for each in found:
            self._ejections.take_out(each.name, each.endpoint, until)
            logger.warning(
                "Endpoint taken out by an operator: service_port=%s endpoint=%s seconds=%s",
                each.name,
                each.endpoint,
                "until-uneject" if asked.seconds is None else f"{asked.seconds:g}",
            )
        await self._proxier.tell_workers([each.name for each in found])
        for each in found:
            yield _ejection(each, asked.seconds)

    async def _uneject(self, asked: UnejectParameters) -> AsyncGenerator[Ejection, None]:
        address, port = parsed_endpoint(asked.endpoint)
        found = [
            EndpointOf(name, endpoint)
            for name in self._of_service(asked.service, self._ejections)
            for endpoint in self._ejections.of(name, monotonic())
            if endpoint.address == address and port in (None, endpoint.port)
        ]
        if not found:
            raise AdminError(ErrorCode.NOT_FOUND, f"{asked.endpoint} is not taken out{_of(asked.service)}")
        for each in found:
            self._ejections.put_back(each.name, each.endpoint)
            logger.info(
                "Endpoint put back by an operator: service_port=%s endpoint=%s", each.name, each.endpoint
            )
        await self._proxier.tell_workers([each.name for each in found])
        for each in found:
            yield _ejection(each, None)

    def _found(self, text: str, service: str) -> tuple[EndpointOf, ...]:
        address, port = parsed_endpoint(text)
        planned = self._proxier.service_ports
        names = self._of_service(service, planned)
        found = endpoints_at((planned[name] for name in names), address, port)
        if not found:
            raise AdminError(ErrorCode.NOT_FOUND, f"nothing here uses an endpoint {text}{_of(service)}")
        return found

    def _of_service(self, service: str, names: Iterable[ServicePortName]) -> Iterable[ServicePortName]:
        if not service:
            return names
        meant = set(self._named(service))
        return [name for name in names if name in meant]

    def _require_others(self, found: tuple[EndpointOf, ...]) -> None:
        now = monotonic()
        for each in found:
            planned = self._proxier.service_ports[each.name]
            policies = classes_left_with_none(planned, each.endpoint, self._ejections.of(each.name, now))
            if policies:
                raise AdminError(
                    ErrorCode.REFUSED,
                    f"{each.endpoint} is the last that {each.name.key} may use under traffic policy "
                    f"{' and '.join(policy.value for policy in policies)}; nothing is done. "
                    "Forced, it goes on being used until there is another",
                )


def _of(service: str) -> str:
    return f" of Service {service}" if service else ""


def _ejection(each: EndpointOf, seconds: float | None) -> Ejection:
    name = each.name
    return Ejection(
        service_port=str(name),
        protocol=name.protocol.value,
        family=name.family.value,
        endpoint=str(each.endpoint),
        seconds=seconds,
    )
