# The canary is for users whose risk is known to be low.
package risk

decision := {"allow": true} if {
	input.features.risk_score < 0.8
} else := {
	"allow": true,
	"versions": [input.rollout.stable],
	"reason": "the risk is high or not known",
}
