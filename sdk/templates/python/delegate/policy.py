"""The policy {{name}}: the pod's label network names the delegate; a pod without it gets the first one.

What a request holds and what a choice needs is in wit/policy.wit; names there-are-so are there_are_so here.
`componentize-py -d wit -w delegate-policy bindings .` writes the types for an editor.
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.delegate_choice import Choice
from wit_world.imports.types import Denial_Denied, Denial_InvalidConfig


class DelegateChoice(exports.DelegateChoice):
    def choose(self, request):
        labels = {label.key: label.value for label in request.pod.labels} if request.pod else {}
        names = [candidate.name for candidate in request.candidates]
        if "network" in labels:
            name = labels["network"]
            if name not in names:
                raise Err(Denial_Denied(f"there is no delegate {json.dumps(name)} on this network"))
            return Choice(name, [], "the pod's label names it")
        if not names:
            raise Err(Denial_InvalidConfig("the network has no delegates"))
        return Choice(names[0], [], "it is the first")

    def validate(self, config, candidates):
        """What is wrong with the network's select object (JSON text): a list of Problem(JSON pointer, message)."""
        return []

    def config_schema(self):
        return json.dumps({"type": "object"})
