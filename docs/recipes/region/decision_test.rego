package region_test

import data.region

request_from(where) := {
	"rollout": {"versions": ["3", "4", "5"]},
	"attributes": {"request": {"http": {"headers": {"x-region": where}}}},
}

test_a_region_gets_what_is_cleared_for_it if {
	region.decision.versions == ["3", "4"] with input as request_from("us")
	region.decision.versions == ["3"] with input as request_from("eu")
}

test_nothing_is_cleared_for_a_region_that_is_not_known if {
	region.decision == {"allow": true, "versions": []} with input as request_from("moon")
	region.decision.versions == [] with input as {"rollout": {"versions": ["3"]}}
}
