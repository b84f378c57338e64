# METADATA
# title: The default policy on control actions
# description: |
#   Allows everything but, in a freeze window, what gives a new version more requests; and, in namespaces
#   that want four eyes, what makes a version stable by whoever applied the document, whatever command
#   does it. Both are data: none by default.
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
	waits_for_the_thaw
	some freeze in data.control.freezes
	input.time >= time.parse_rfc3339_ns(freeze.from)
	input.time < time.parse_rfc3339_ns(freeze.until)
}

denials contains "somebody else than who applied it has to make it stable" if {
	wants_four_eyes
	input.action != "apply"
	is_string(input.rollout.appliedBy)
	person(input.actor) == person(input.rollout.appliedBy)
}

denials contains "nobody knows who applied it: apply the document again, and let somebody else make it stable" if {
	wants_four_eyes
	input.action != "apply"
	input.rollout.appliedBy == null
}

denials contains sprintf("it would serve requests of %s: name the version that is stable there as stable", [others]) if {
	wants_four_eyes
	input.action == "apply"
	count(in_place_of) > 0
	others := concat(" and ", [concat("/", [other.namespace, other.name]) | some other in in_place_of])
}

# Whoever applies a document is who applied it.
denials contains "a document makes no version stable alone: it needs a `pause: {}` before, for somebody else to end" if {
	wants_four_eyes
	input.action == "apply"
}

wants_four_eyes if {
	input.effect.makesStable
	some rollout in array.concat([input.rollout], in_place_of)
	rollout.namespace in data.control.four_eyes
}

# Whose requests it would have, or had: whatever it is called, and wherever it is.
in_place_of := object.get(input.rollout, "inPlaceOf", [])

# Who comes with a certificate, or is written in capitals elsewhere, is nobody else.
person(name) := trim_prefix(lower(name), "certificate:")

waits_for_the_thaw if input.effect.givesMore

waits_for_the_thaw if input.effect.makesStable

# It takes stable away, too.
waits_for_the_thaw if input.action == "delete"
