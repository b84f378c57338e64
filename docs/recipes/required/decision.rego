# No answer without a tenant: a denial, with a status and a body of its own.
package required

default decision := {
	"allow": false,
	"http_status": 400,
	"reason": "no tenant",
	"body": `{"error": "the header x-tenant is required"}`,
}

decision := {"allow": true} if input.attributes.request.http.headers["x-tenant"] != ""
