package control_test

import data.control

freeze := {"from": "2026-12-20T00:00:00Z", "until": "2027-01-04T00:00:00Z", "reason": "year end"}

within := 1797811200000000000 # 2026-12-21T00:00:00Z

nothing := {"givesMore": false, "makesStable": false, "takesAway": false}

gives_more := object.union(nothing, {"givesMore": true})

makes_stable := object.union(nothing, {"makesStable": true})

takes_away := object.union(nothing, {"takesAway": true})

asked(action, effect) := {
	"actor": "alice",
	"action": action,
	"arguments": {},
	"effect": effect,
	"rollout": {
		"namespace": "payments",
		"name": "fraud-detector",
		"status": {"weight": 20},
		"appliedBy": "alice",
		"appliedAt": "2026-12-20T12:00:00.000Z",
		"inPlaceOf": [],
	},
	"time": within,
}

applied_by(who) := object.union(asked("promote", makes_stable), {"rollout": {"appliedBy": who}})

test_everything_is_allowed_by_default if {
	control.decision == {"allow": true} with input as asked("promote", makes_stable)
}

test_a_freeze_forbids_whatever_gives_a_version_more_or_makes_it_stable if {
	every action in ["promote", "advance", "resume", "retry", "adopt", "apply", "restore", "set-weight"] {
		every effect in [gives_more, makes_stable] {
			decision := control.decision with input as asked(action, effect) with data.control.freezes as [freeze]
			decision == {"allow": false, "reason": "frozen until 2027-01-04T00:00:00Z: year end"}
		}
	}
}

test_a_freeze_leaves_what_takes_away_or_gives_nothing if {
	every action in ["abort", "kill", "pause", "undo", "set-weight", "apply", "adopt"] {
		every effect in [takes_away, nothing] {
			control.decision.allow with input as asked(action, effect) with data.control.freezes as [freeze]
		}
	}
}

test_a_freeze_forbids_a_delete if {
	not control.decision.allow with input as asked("delete", takes_away) with data.control.freezes as [freeze]
}

test_a_freeze_ends if {
	later := object.union(asked("promote", makes_stable), {"time": within + ((30 * 86400) * 1000000000)})
	control.decision.allow with input as later with data.control.freezes as [freeze]
}

test_four_eyes_keep_who_applied_from_making_it_stable_in_any_way if {
	every action in ["promote", "adopt", "set-weight", "resume", "retry", "restore"] {
		decision := control.decision with input as asked(action, makes_stable) with data.control.four_eyes as ["payments"]
		decision == {"allow": false, "reason": "somebody else than who applied it has to make it stable"}
	}
}

test_nobody_is_somebody_else_by_the_way_in_which_they_come if {
	every somebody in ["Alice", "ALICE", "certificate:alice", "certificate:Alice"] {
		every question in [
			applied_by(somebody),
			object.union(asked("promote", makes_stable), {"actor": somebody}),
		] {
			not control.decision.allow with input as question with data.control.four_eyes as ["payments"]
		}
	}
}

test_four_eyes_let_who_applied_do_everything_else if {
	every action in ["promote", "apply", "set-weight", "abort", "kill", "pause", "undo", "delete"] {
		every effect in [gives_more, takes_away, nothing] {
			control.decision.allow with input as asked(action, effect) with data.control.four_eyes as ["payments"]
		}
	}
}

test_four_eyes_let_somebody_else_make_it_stable if {
	every somebody in ["bob", "folder:/srv/rollouts"] {
		control.decision.allow with input as applied_by(somebody) with data.control.four_eyes as ["payments"]
	}
}

test_unknown_is_not_somebody_else if {
	decision := control.decision with input as applied_by(null) with data.control.four_eyes as ["payments"]
	not decision.allow
	contains(decision.reason, "apply the document again")
}

test_four_eyes_keep_a_document_from_making_a_version_stable_alone if {
	every somebody in ["alice", "bob"] {
		question := object.union(asked("apply", makes_stable), {"actor": somebody})
		decision := control.decision with input as question with data.control.four_eyes as ["payments"]
		not decision.allow
		contains(decision.reason, "pause: {}")
	}
}

instead_of(action, namespace) := object.union(asked(action, makes_stable), {"rollout": {
	"namespace": "shop",
	"inPlaceOf": [{"namespace": namespace, "name": "fraud-detector", "stable": "3", "deleted": false}],
}})

test_four_eyes_are_for_whoever_has_the_requests_of_such_a_namespace if {
	every action in ["apply", "promote", "set-weight", "delete"] {
		question := instead_of(action, "payments")
		not control.decision.allow with input as question with data.control.four_eyes as ["payments"]
		control.decision.allow with input as instead_of(action, "toys") with data.control.four_eyes as ["payments"]
	}
}

test_a_document_that_takes_requests_of_another_rollout_is_told_whose if {
	decision := control.decision with input as instead_of("apply", "payments") with data.control.four_eyes as ["payments"]
	contains(decision.reason, "it would serve requests of payments/fraud-detector")
}

test_four_eyes_are_for_the_namespaces_that_want_them if {
	control.decision.allow with input as asked("promote", makes_stable) with data.control.four_eyes as ["shop"]
}
