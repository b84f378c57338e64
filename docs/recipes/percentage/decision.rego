# A tenth of the users in the EU are left to the bucket, and all users elsewhere.
package percentage

decision := {
	"allow": true,
	"versions": [input.rollout.stable],
	"reason": "not among the tenth",
} if {
	input.attributes.request.http.headers["x-region"] == "eu"
	not among_the_tenth
} else := {"allow": true}

among_the_tenth if input.draw < 1000
