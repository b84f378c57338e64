package testers_test

import data.testers

request_of_a_tester(canary) := {
	"rollout": {"canary": canary},
	"attributes": {"request": {"http": {"headers": {"x-user-email": "ann@example.com", "x-tester": "true"}}}},
}

test_a_tester_gets_the_canary if {
	testers.decision.version == "4" with input as request_of_a_tester("4")
}

test_without_a_canary_there_is_nothing_to_test if {
	testers.decision == {"allow": true} with input as request_of_a_tester(null)
}

test_everybody_else_is_left_to_the_bucket if {
	testers.decision == {"allow": true} with input as {"rollout": {"canary": "4"}}
}
