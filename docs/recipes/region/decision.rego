# Which versions are cleared for which region; one that is not listed is cleared nowhere.
package region

cleared := {
	"3": {"eu", "us", "ap"},
	"4": {"us"},
}

decision := {
	"allow": true,
	"versions": [version |
		some version in input.rollout.versions
		input.attributes.request.http.headers["x-region"] in cleared[version]
	],
}
