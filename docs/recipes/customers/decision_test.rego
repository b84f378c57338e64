package customers_test

import data.customers

customer(unit) := {"unit": unit, "rollout": {"versions": ["3", "4"]}}

test_a_customer_gets_what_was_promised if {
	customers.decision.version == "4" with input as customer("u-1017")
	customers.decision.version == "3" with input as customer("u-2203")
}

test_others_are_left_to_the_bucket if {
	customers.decision == {"allow": true} with input as customer("u-1")
	customers.decision == {"allow": true} with input as customer(null)
}

test_a_promise_of_a_version_that_is_gone_is_over if {
	customers.decision == {"allow": true} with input as customer("u-1017") with data.customers.promised as {"u-1017": "2"}
}
