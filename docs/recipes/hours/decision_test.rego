package hours_test

import data.hours

asked_at(moment) := {"rollout": {"stable": "3"}, "time": time.parse_rfc3339_ns(moment)}

test_office_hours_are_those_of_berlin_summer_and_winter if {
	hours.decision == {"allow": true} with input as asked_at("2026-07-01T07:00:00Z")
	hours.decision == {"allow": true} with input as asked_at("2026-12-01T08:00:00Z")
	hours.decision.versions == ["3"] with input as asked_at("2026-12-01T07:59:59Z")
	hours.decision.versions == ["3"] with input as asked_at("2026-12-01T16:00:00Z")
}

test_nothing_is_tried_at_the_weekend if {
	hours.decision.versions == ["3"] with input as asked_at("2026-12-05T10:00:00Z")
}
