package routing_test

import data.routing

rollout := {"stable": "3", "canary": "4", "versions": ["3", "4"]}

test_without_features_nothing_is_narrowed if {
	routing.decision == {"allow": true} with input as {"rollout": rollout, "features": {}}
}

test_low_risk_is_not_narrowed if {
	routing.decision == {"allow": true} with input as {"rollout": rollout, "features": {"risk_score": 0.79}}
}

test_high_risk_stays_on_stable if {
	decision := routing.decision with input as {"rollout": rollout, "features": {"risk_score": 0.8}}
	decision.allow
	decision.versions == ["3"]
	decision.reason == "high risk stays on stable"
}

test_the_threshold_is_data if {
	decision := routing.decision with input as {"rollout": rollout, "features": {"risk_score": 0.6}}
		with data.routing.risk_threshold as 0.5

	decision.versions == ["3"]
}

test_a_risk_that_is_no_number_is_a_high_risk if {
	decision := routing.decision with input as {"rollout": rollout, "features": {"risk_score": "unknown"}}
	decision.versions == ["3"]
}
