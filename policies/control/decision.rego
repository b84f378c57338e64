# METADATA
# title: The default policy on control actions
# description: |
#   Allows everything but, in a freeze window, what gives a new version more requests; and, in namespaces
#   that want four eyes, a promotion by whoever applied the document. Both are data: none by default.
# entrypoint: true
package control

default decision := {"allow": true}

decision := {
	"allow": false,
	"reason": concat("; ", sort(denials)),
} if {
	count(denials) > 0
}

denials contains sprintf("frozen until %s: %s", [freeze.until, freeze.reason]) if {
	raises_exposure
	some freeze in data.control.freezes
	input.time >= time.parse_rfc3339_ns(freeze.from)
	input.time < time.parse_rfc3339_ns(freeze.until)
}

denials contains "somebody else than who applied it has to promote" if {
	input.action == "promote"
	input.rollout.namespace in data.control.four_eyes
	input.actor == input.rollout.appliedBy
}

raises_exposure if {
	not input.action in {"abort", "kill", "pause", "set-weight", "undo"}
}

raises_exposure if {
	input.action == "set-weight"
	input.arguments.weight > input.rollout.status.weight
}
