package risk_test

import data.risk

with_features(features) := {"rollout": {"stable": "3"}, "features": features}

test_low_risk_is_left_to_the_bucket if {
	risk.decision == {"allow": true} with input as with_features({"risk_score": 0.2})
}

test_high_risk_stays_on_stable if {
	risk.decision.versions == ["3"] with input as with_features({"risk_score": 0.8})
}

test_risk_that_is_not_known_stays_on_stable if {
	risk.decision.versions == ["3"] with input as with_features({})
	risk.decision.versions == ["3"] with input as with_features({"risk_score": "low"})
}
