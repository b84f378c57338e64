# The canary is for tenants on a list; everybody else stays on stable.
package tenants

decision := {"allow": true} if {
	data.tenants.early[input.attributes.request.http.headers["x-tenant"]]
} else := {
	"allow": true,
	"versions": [input.rollout.stable],
	"reason": "the tenant is not on the list",
}
