# METADATA
# title: The default routing policy
# description: |
#   Allows every request and lets the bucket choose the version, except for users whose risk is high:
#   they stay on stable while a new version proves itself.
# entrypoint: true
package routing

default decision := {"allow": true}

decision := {
	"allow": true,
	"versions": [input.rollout.stable],
	"reason": "high risk stays on stable",
} if {
	input.features.risk_score >= data.routing.risk_threshold
}
