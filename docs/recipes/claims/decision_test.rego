package claims_test

import data.claims

# Signed by a key that is thrown away; they hold until 2026-11-30T10:00:00Z.
beta := "eyJhbGciOiJSUzI1NiIsImtpZCI6IjIwMjYtMTEiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoibW9kZWxzIiwiZXhwIjoxNzk2MDMyODAwLCJzdWIiOiJhbm4iLCJwbGFuIjoiYmV0YSJ9.wT-GrxvPbdx68niY1aDzQIwCqtOuOh1UVUpQPsBlZSE5YwQ55HpFW2_NDc-e8jTb-UF5adGBFNzpHRpFL5q485ji0W-U9VgwyNTupO2w-hpKCmDu9qM8AOmERemg7MGEU8bWxkTffbkqfjGRi55Z2QiVI2S2d0OZKzScbLrmg_mA-g_-CPXkmfQlssLNZ0LVqLlOByfkCuOMhWe-wSCANdaX0oH6W9a62fIlJd4k8uOxLGdJLj2k7PQFL8vCcxoajWDniwc5h53yqOI82eih12gxdcZx1KEdogaA4EO4lYPzisgQsDm-6oOMiZToRxowhEMdzSAqOjLmbMA8oCA2nw"

basic := "eyJhbGciOiJSUzI1NiIsImtpZCI6IjIwMjYtMTEiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoibW9kZWxzIiwiZXhwIjoxNzk2MDMyODAwLCJzdWIiOiJib2IiLCJwbGFuIjoiYmFzaWMifQ.x2-FRFcxHnIsvz-Sln5H_bvOTycs68xe0_M82_raxYb2RgsnnEhKkmAYdvHt91AK1PYWVuBN5SqSoMSZnU2StxyAOZtmsvXKlOPuZLCJ7mK1A6Tu3-u4i_zj55tY6aefiXBmG7nOqKTnv6ODaMuuX4LtfGWgdAtlJXdI1w9I3vOuIVnXCueY_pq2SXasqgnMu0DzlIY5VSQTkzkaYktH5qU0RZCp-PxizZSKC08np9OuPyFkLZzfvZ1WfCSBXW4lZexkEBpAnKggHpFrd74m5eW1iyuKSY-DCTTc4OCvO_qJMrNwjELc3_cKvUWAjSuEchsCowkIGk8pfTrNGzGW_g"

request_with(token, moment) := {
	"time": time.parse_rfc3339_ns(moment),
	"rollout": {"stable": "3"},
	"attributes": {"request": {"http": {"headers": {"authorization": concat(" ", ["Bearer", token])}}}},
}

in_time(token) := request_with(token, "2026-11-30T09:00:00Z")

test_the_plan_of_the_token_decides if {
	claims.decision == {"allow": true} with input as in_time(beta)
	claims.decision.versions == ["3"] with input as in_time(basic)
}

test_a_token_that_is_over_does_not_hold if {
	decision := claims.decision with input as request_with(beta, "2026-11-30T10:00:01Z")
	decision.allow == false
	decision.http_status == 401
}

test_what_is_no_token_of_the_issuer_does_not_hold if {
	[_, payload, signature] := split(beta, ".")
	unsigned := concat(".", [base64url.encode_no_pad(`{"alg": "none"}`), payload, ""])
	every token in ["", "garbage", unsigned, concat(".", ["e30", payload, signature])] {
		claims.decision.allow == false with input as in_time(token)
	}
	claims.decision.allow == false with input as {"rollout": {"stable": "3"}}
}

test_the_keys_are_data if {
	claims.decision.allow == false with input as in_time(beta) with data.claims.keys as `{"keys": []}`
}
