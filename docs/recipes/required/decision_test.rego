package required_test

import data.required

request_with(headers) := {"attributes": {"request": {"http": {"headers": headers}}}}

test_a_tenant_passes if {
	required.decision == {"allow": true} with input as request_with({"x-tenant": "acme"})
}

test_nobody_else_does if {
	every headers in [{}, {"x-tenant": ""}] {
		decision := required.decision with input as request_with(headers)
		decision.allow == false
		decision.http_status == 400
		json.unmarshal(decision.body) == {"error": "the header x-tenant is required"}
	}
}
