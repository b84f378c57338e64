# Claims of a JWT: who has the plan "beta" may get the canary, and without a token that holds nobody gets an answer.
package claims

default decision := {"allow": false, "http_status": 401, "reason": "no token that holds"}

decision := {"allow": true} if {
	token.plan == "beta"
} else := {
	"allow": true,
	"versions": [input.rollout.stable],
	"reason": "the plan is not beta",
} if {
	token
}

token := payload if {
	[_, text] := split(input.attributes.request.http.headers.authorization, " ")
	wanted := {
		"cert": data.claims.keys,
		"alg": "RS256",
		"iss": "https://issuer.example",
		"aud": "models",
		"time": input.time,
	}
	[true, _, payload] = io.jwt.decode_verify(text, wanted)
}
