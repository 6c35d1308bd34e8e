// A policy in JavaScript: the lowest free address of the first range.
//
// componentize-qjs -w host-abi/wit -j tests/guests/javascript/policy.js -n ipam-policy --sync --stub-wasi -o policy.wasm
import { nextFree } from "weft:policy/ledger@0.1.1";
import { write } from "weft:policy/log@0.1.1";

function same(a, b) {
  return a.tag === b.tag && a.val.every((part, i) => part === b.val[i]);
}

function next(address) {
  const parts = [...address.val];
  const limit = address.tag === "ipv4" ? 256 : 65536;
  for (let i = parts.length - 1; i >= 0; i--) {
    parts[i] += 1;
    if (parts[i] < limit) break;
    parts[i] = 0;
  }
  return { tag: address.tag, val: parts };
}

export const ipam = {
  allocate(request) {
    const config = JSON.parse(request.config);
    if (config.deny) throw { tag: "denied", val: config.deny };
    if (config.spin) for (;;) {}
    const range = request.rangeSets[0].ranges[0];
    let address = nextFree(range, range.first);
    if (address && range.gateway && same(address, range.gateway)) address = nextFree(range, next(address));
    if (!address) throw { tag: "exhausted", val: "no address is left" };
    write("info", `offers ${address.val.join(".")}`);
    return {
      addresses: [{ candidates: [{ address, length: range.subnet.length }], gateway: range.gateway }],
      routes: [],
      dns: undefined,
      release: { tag: "free" },
      reason: "the lowest free address",
    };
  },
  validate(config) {
    return JSON.parse(config).refuse ? [{ at: "/refuse", message: "js does not like this" }] : [];
  },
  configSchema() {
    return '{"type": "object"}';
  },
};
