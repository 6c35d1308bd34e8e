// The policy {{name}}: the pod's label network names the delegate; a pod without it gets the first one.
//
// What a request holds and what a choice needs is in wit/policy.wit; names there-are-so are thereAreSo here.
import { write } from "weft:policy/log@{{contract}}";

export const delegateChoice = {
  choose(request) {
    const label = request.pod?.labels.find((label) => label.key === "network");
    const names = request.candidates.map((candidate) => candidate.name);
    if (label && !names.includes(label.value)) {
      throw { tag: "denied", val: `there is no delegate ${JSON.stringify(label.value)} on this network` };
    }
    if (names.length === 0) throw { tag: "invalid-config", val: "the network has no delegates" };
    write("debug", `chooses among ${names.join(", ")}`);
    return {
      name: label ? label.value : names[0],
      settings: [],
      reason: label ? "the pod's label names it" : "it is the first",
    };
  },

  // What is wrong with the network's select object (JSON text): a list of { at: JSON pointer, message }.
  validate(config, candidates) {
    return [];
  },

  configSchema() {
    return JSON.stringify({ type: "object" });
  },
};
