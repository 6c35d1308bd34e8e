"""A policy in Python: the lowest free address of the first range.

componentize-py -d host-abi/wit -w ipam-policy componentize --stub-wasi policy -p tests/guests/python -o policy.wasm
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import ledger, log
from wit_world.imports.types import (
    Decision,
    Denial_Denied,
    Denial_Exhausted,
    IpAddress_Ipv4,
    IpPrefix,
    ReleaseRule_Free,
    WantedAddress,
)


def after(address):
    number = int.from_bytes(bytes(address.value), "big") + 1
    return IpAddress_Ipv4(tuple(number.to_bytes(4, "big")))


class Ipam(exports.Ipam):
    def allocate(self, request):
        config = json.loads(request.config)
        if "deny" in config:
            raise Err(Denial_Denied(config["deny"]))
        range = request.range_sets[0].ranges[0]
        address = ledger.next_free(range, range.first)
        if address is not None and address == range.gateway:
            address = ledger.next_free(range, after(address))
        if address is None:
            raise Err(Denial_Exhausted("no address is left"))
        log.write(log.Level.INFO, "offers " + ".".join(str(part) for part in address.value))
        wanted = WantedAddress([IpPrefix(address, range.subnet.length)], range.gateway)
        return Decision([wanted], [], None, ReleaseRule_Free(), "the lowest free address")

    def validate(self, config):
        return []

    def config_schema(self):
        return '{"type": "object"}'
