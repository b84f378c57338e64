# Employees are no part of an experiment: they get stable, and are not counted.
package staff

import data.lib.people

decision := {
	"allow": true,
	"versions": [input.rollout.stable],
	"reason": "an employee",
} if {
	people.employee
} else := {"allow": true}
