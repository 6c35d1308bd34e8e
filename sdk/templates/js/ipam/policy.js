// The policy {{name}}: one address of each family that the network has ranges for. Pods with the label address=keep get the
// same addresses when they come back.
//
// What a request holds and what a decision needs is in wit/policy.wit; names there-are-so are thereAreSo here.
import { nextFree } from "weft:policy/ledger@{{contract}}";
import { write } from "weft:policy/log@{{contract}}";

const text = (address) =>
  address.tag === "ipv4" ? address.val.join(".") : address.val.map((group) => group.toString(16)).join(":");

const same = (a, b) => a.tag === b.tag && a.val.every((part, i) => part === b.val[i]);

// The address after this one.
function after(address) {
  const limit = address.tag === "ipv4" ? 256 : 65536;
  const parts = [...address.val];
  for (let i = parts.length - 1; i >= 0; i--) {
    parts[i] += 1;
    if (parts[i] < limit) return { tag: address.tag, val: parts };
    parts[i] = 0;
  }
  return undefined;
}

const compare = (a, b) => {
  const i = a.val.findIndex((part, i) => part !== b.val[i]);
  return i < 0 ? 0 : a.val[i] - b.val[i];
};

const inRange = (range, address) =>
  address.tag === range.first.tag && compare(range.first, address) <= 0 && compare(address, range.last) <= 0;

// The lowest free address of a range that is not its gateway.
function lowest(range) {
  let address = nextFree(range, range.first);
  if (address && range.gateway && same(address, range.gateway)) {
    const next = after(address);
    address = next && nextFree(range, next);
  }
  return address;
}

// The address that was kept for this pod, or a free one.
function pick(request, set) {
  const kept = request.held.find((claim) => claim.state === "kept" && set.ranges.some((r) => inRange(r, claim.address)));
  for (const range of set.ranges) {
    const address = kept ? inRange(range, kept.address) && kept.address : lowest(range);
    if (address) {
      write("debug", `offers ${text(address)}`);
      return { candidates: [{ address, length: range.subnet.length }], gateway: range.gateway };
    }
  }
  const ranges = set.ranges.map((range) => `${text(range.first)}-${text(range.last)}`).join(", ");
  throw { tag: "exhausted", val: `no address is free in ${ranges}` };
}

// The first range set of each family.
function oneOfEachFamily(sets) {
  const seen = new Set();
  return sets.filter((set) => {
    const family = set.ranges[0]?.first.tag;
    return family && !seen.has(family) && seen.add(family);
  });
}

export const ipam = {
  allocate(request) {
    const sets = oneOfEachFamily(request.rangeSets);
    if (sets.length === 0) throw { tag: "invalid-config", val: "the network has no ranges" };
    const addresses = sets.map((set) => pick(request, set));
    const keeps = request.pod?.labels.some((label) => label.key === "address" && label.value === "keep");
    return {
      addresses,
      routes: [],
      dns: request.resolver,
      release: keeps ? { tag: "keep", val: request.identities[0] } : { tag: "free" },
      reason: keeps ? "the lowest free address, kept for the pod" : "the lowest free address",
    };
  },

  // What is wrong with the network's ipam object (JSON text): a list of { at: JSON pointer, message }.
  validate(config) {
    return [];
  },

  configSchema() {
    return JSON.stringify({ type: "object", required: ["ranges"], properties: { ranges: { type: "array" } } });
  },
};
