package percentage_test

import data.percentage

request_from(region, more) := object.union(more, {
	"rollout": {"stable": "3"},
	"attributes": {"request": {"http": {"headers": {"x-region": region}}}},
})

test_a_tenth_of_the_region_is_left_to_the_bucket if {
	percentage.decision == {"allow": true} with input as request_from("eu", {"draw": 999})
	percentage.decision.versions == ["3"] with input as request_from("eu", {"draw": 1000})
}

test_a_request_without_a_unit_is_not_among_them if {
	percentage.decision.versions == ["3"] with input as request_from("eu", {})
}

test_all_elsewhere_are if {
	percentage.decision == {"allow": true} with input as request_from("us", {"draw": 9999})
}
