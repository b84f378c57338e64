package weekends_test

import data.weekends

asked_at(moment) := {"time": time.parse_rfc3339_ns(moment)}

test_copies_are_made_at_weekends if {
	weekends.decision == {"allow": true, "shadow": true} with input as asked_at("2026-12-05T10:00:00Z")
}

test_the_weekend_is_that_of_berlin if {
	weekends.decision.shadow == true with input as asked_at("2026-12-04T23:30:00Z")
	weekends.decision.shadow == false with input as asked_at("2026-12-06T23:30:00Z")
}
