package control_test

import data.control

freeze := {"from": "2026-12-20T00:00:00Z", "until": "2027-01-04T00:00:00Z", "reason": "year end"}

within := 1797811200000000000 # 2026-12-21T00:00:00Z

asked(action, arguments) := {
	"actor": "alice",
	"action": action,
	"arguments": arguments,
	"rollout": {
		"namespace": "payments",
		"name": "fraud-detector",
		"status": {"weight": 20},
		"appliedBy": "alice",
	},
	"time": within,
}

test_everything_is_allowed_by_default if {
	control.decision == {"allow": true} with input as asked("promote", {"full": true})
}

test_a_freeze_forbids_what_raises_exposure if {
	every action in ["promote", "advance", "resume", "retry", "adopt", "apply", "restore"] {
		decision := control.decision with input as asked(action, {}) with data.control.freezes as [freeze]
		decision == {"allow": false, "reason": "frozen until 2027-01-04T00:00:00Z: year end"}
	}
}

test_a_freeze_leaves_what_lowers_it if {
	every action in ["abort", "kill", "pause", "undo"] {
		control.decision.allow with input as asked(action, {}) with data.control.freezes as [freeze]
	}
}

test_in_a_freeze_a_weight_may_fall_and_not_rise if {
	control.decision.allow with input as asked("set-weight", {"weight": 10}) with data.control.freezes as [freeze]
	not control.decision.allow with input as asked("set-weight", {"weight": 30}) with data.control.freezes as [freeze]
}

test_a_freeze_ends if {
	later := object.union(asked("promote", {}), {"time": within + ((30 * 86400) * 1000000000)})
	control.decision.allow with input as later with data.control.freezes as [freeze]
}

test_four_eyes_keep_who_applied_from_promoting if {
	decision := control.decision with input as asked("promote", {}) with data.control.four_eyes as ["payments"]
	decision == {"allow": false, "reason": "somebody else than who applied it has to promote"}
}

test_four_eyes_let_somebody_else_promote if {
	bob := object.union(asked("promote", {}), {"actor": "bob"})
	control.decision.allow with input as bob with data.control.four_eyes as ["payments"]
}

test_four_eyes_are_for_the_namespaces_that_want_them if {
	control.decision.allow with input as asked("promote", {}) with data.control.four_eyes as ["shop"]
}
