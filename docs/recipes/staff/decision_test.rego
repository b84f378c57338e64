package staff_test

import data.staff

request_of(email) := {
	"rollout": {"stable": "3"},
	"attributes": {"request": {"http": {"headers": {"x-user-email": email}}}},
}

test_an_employee_gets_stable if {
	staff.decision.versions == ["3"] with input as request_of("ann@example.com")
}

test_everybody_else_is_left_to_the_bucket if {
	staff.decision == {"allow": true} with input as request_of("ann@example.net")
}
