"""The policy {{name}}: one address of each family that the network has ranges for. Pods with the label address=keep get the
same addresses when they come back.

What a request holds and what a decision needs is in wit/policy.wit; names there-are-so are there_are_so here.
`componentize-py -d wit -w ipam-policy bindings .` writes the types for an editor.
"""

import ipaddress
import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import ledger, log
from wit_world.imports.types import (
    ClaimState,
    Decision,
    Denial_Exhausted,
    Denial_InvalidConfig,
    IpAddress_Ipv4,
    IpAddress_Ipv6,
    IpPrefix,
    ReleaseRule_Free,
    ReleaseRule_Keep,
    WantedAddress,
)


def read(address):
    """The contract's address as one of the standard library."""
    if isinstance(address, IpAddress_Ipv4):
        return ipaddress.IPv4Address(bytes(address.value))
    return ipaddress.IPv6Address(b"".join(group.to_bytes(2, "big") for group in address.value))


def written(address):
    """The other way."""
    packed = address.packed
    if address.version == 4:
        return IpAddress_Ipv4(tuple(packed))
    return IpAddress_Ipv6(tuple(int.from_bytes(packed[i : i + 2], "big") for i in range(0, 16, 2)))


def holds(range, address):
    first, last = read(range.first), read(range.last)
    return first.version == address.version and first <= address <= last


def lowest(range):
    """The lowest free address of a range that is not its gateway."""
    free = ledger.next_free(range, range.first)
    if free is not None and range.gateway is not None and read(free) == read(range.gateway):
        after = read(free) + 1
        free = ledger.next_free(range, written(after)) if holds(range, after) else None
    return None if free is None else read(free)


def pick(request, set):
    """The address that was kept for this pod, or a free one."""
    kept = [read(claim.address) for claim in request.held if claim.state == ClaimState.KEPT]
    for choose in (lambda range: next((it for it in kept if holds(range, it)), None), lowest):
        for range in set.ranges:
            address = choose(range)
            if address is not None:
                log.write(log.Level.DEBUG, f"offers {address}")
                return WantedAddress([IpPrefix(written(address), range.subnet.length)], range.gateway)
    ranges = ", ".join(f"{read(range.first)}-{read(range.last)}" for range in set.ranges)
    raise Err(Denial_Exhausted(f"no address is free in {ranges}"))


def one_of_each_family(sets):
    """The first range set of each family."""
    found = {}
    for set in sets:
        if set.ranges:
            found.setdefault(read(set.ranges[0].first).version, set)
    return list(found.values())


class Ipam(exports.Ipam):
    def allocate(self, request):
        sets = one_of_each_family(request.range_sets)
        if not sets:
            raise Err(Denial_InvalidConfig("the network has no ranges"))
        addresses = [pick(request, set) for set in sets]
        labels = {label.key: label.value for label in request.pod.labels} if request.pod else {}
        if labels.get("address") == "keep":
            release, reason = ReleaseRule_Keep(request.identities[0]), "the lowest free address, kept for the pod"
        else:
            release, reason = ReleaseRule_Free(), "the lowest free address"
        return Decision(addresses, [], request.resolver, release, reason)

    def validate(self, config):
        """What is wrong with the network's ipam object (JSON text): a list of Problem(JSON pointer, message)."""
        return []

    def config_schema(self):
        return json.dumps({"type": "object", "required": ["ranges"], "properties": {"ranges": {"type": "array"}}})
