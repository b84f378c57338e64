# Some customers get the version that they were promised, whatever the bucket and the weight say.
package customers

decision := {
	"allow": true,
	"version": version,
	"reason": "promised to the customer",
} if {
	version := data.customers.promised[input.unit]
	version in input.rollout.versions
} else := {"allow": true}
