"""The register: what was asked to be forgotten, of every tenant, and what that means for each chain.

erasure-requested-v1  ->  register  ->  what no later batch may hold, and what has to leave those that there are
"""

from __future__ import annotations

from contextlib import aclosing

from ruminate.accumulator.records.names import Forgotten
from ruminate.schemas.erasure import ErasureRequested
from ruminate.schemas.flow import ERASURE_REQUESTED
from ruminate.shared.bus import Bus, Delivery


class Register:
    """Everything that was asked; following it is its owner's, who hands it every request once or more."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._requests: dict[str, dict[str, ErasureRequested]] = {}
        self._of_chains: dict[tuple[str, str], Forgotten] = {}

    def take(self, delivery: Delivery[ErasureRequested]) -> None:
        """One more request; the first of an id counts."""
        request, event_id = delivery.payload, delivery.envelope.id
        of_tenant = self._requests.setdefault(request.tenant, {})
        if event_id not in of_tenant:
            of_tenant[event_id] = request
            for (tenant, _), forgotten in self._of_chains.items():
                if tenant == request.tenant:
                    forgotten.take(event_id, request)

    def of(self, tenant: str, target: str) -> Forgotten:
        """What concerns a chain. It grows as requests are taken."""
        chain = (tenant, target)
        if chain not in self._of_chains:
            self._of_chains[chain] = Forgotten(tenant, target, self._requests.get(tenant, {}).items())
        return self._of_chains[chain]

    async def read(self) -> None:
        """Read what was asked until now, for nothing may be cut that somebody has taken back. Raises BrokerUnavailable."""
        async with aclosing(self._bus.read(ERASURE_REQUESTED)) as requests:
            async for request in requests:
                self.take(request)
