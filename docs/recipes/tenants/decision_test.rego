package tenants_test

import data.tenants

request_of(tenant) := {
	"rollout": {"stable": "3"},
	"attributes": {"request": {"http": {"headers": {"x-tenant": tenant}}}},
}

test_a_tenant_on_the_list_is_left_to_the_bucket if {
	tenants.decision == {"allow": true} with input as request_of("acme")
}

test_another_stays_on_stable if {
	tenants.decision.versions == ["3"] with input as request_of("initech")
}

test_the_list_is_data if {
	tenants.decision == {"allow": true} with input as request_of("initech") with data.tenants.early as {"initech": true}
}

test_a_request_without_a_tenant_stays_on_stable if {
	tenants.decision.versions == ["3"] with input as {"rollout": {"stable": "3"}}
}
