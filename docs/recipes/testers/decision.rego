# Our own testers get the canary, whatever its weight is.
package testers

import data.lib.people

decision := {
	"allow": true,
	"version": input.rollout.canary,
	"reason": "a tester",
} if {
	people.tester
	input.rollout.canary != null
} else := {"allow": true}
