# The canary is for callers within our own networks.
package source

decision := {"allow": true} if {
	address := input.attributes.source.address.socketAddress.address
	some network in data.source.networks
	net.cidr_contains(network, address)
} else := {
	"allow": true,
	"versions": [input.rollout.stable],
	"reason": "from outside",
}
