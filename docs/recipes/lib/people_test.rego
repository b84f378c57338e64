package lib.people_test

import data.lib.people

request_with(headers) := {"attributes": {"request": {"http": {"headers": headers}}}}

test_an_employee_is_known_by_the_address if {
	people.employee with input as request_with({"x-user-email": "Ann@Example.com"})
	not people.employee with input as request_with({"x-user-email": "ann@example.com.evil.net"})
	not people.employee with input as request_with({})
}

test_only_an_employee_is_a_tester if {
	people.tester with input as request_with({"x-user-email": "ann@example.com", "x-tester": "true"})
	not people.tester with input as request_with({"x-user-email": "ann@example.com"})
	not people.tester with input as request_with({"x-user-email": "ann@example.net", "x-tester": "true"})
}
