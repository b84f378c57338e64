package source_test

import data.source

request_from(address) := {
	"rollout": {"stable": "3"},
	"attributes": {"source": {"address": {"socketAddress": {"address": address}}}},
}

test_our_own_networks_are_left_to_the_bucket if {
	every address in ["10.1.2.3", "fd00::7"] {
		source.decision == {"allow": true} with input as request_from(address)
	}
}

test_all_others_stay_on_stable if {
	every address in ["192.0.2.1", "2001:db8::7", "no address"] {
		source.decision.versions == ["3"] with input as request_from(address)
	}
}

test_whoever_is_not_known_stays_on_stable if {
	source.decision.versions == ["3"] with input as {"rollout": {"stable": "3"}}
}
