# Who somebody is, by the headers that the gateway sets: what several policies ask.
package lib.people

import input.attributes.request.http.headers

employee if endswith(lower(headers["x-user-email"]), "@example.com")

tester if {
	employee
	headers["x-tester"] == "true"
}
