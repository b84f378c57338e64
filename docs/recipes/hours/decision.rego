# The canary is for office hours, when somebody is there who looks.
package hours

decision := {"allow": true} if {
	somebody_is_there
} else := {
	"allow": true,
	"versions": [input.rollout.stable],
	"reason": "out of hours",
}

somebody_is_there if {
	berlin := [input.time, "Europe/Berlin"]
	not time.weekday(berlin) in {"Saturday", "Sunday"}
	[hour, _, _] := time.clock(berlin)
	hour >= 9
	hour < 17
}
