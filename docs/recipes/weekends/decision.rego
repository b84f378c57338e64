# Copies for the shadow cost twice the computing: they are made at weekends, when there is enough of it.
package weekends

decision := {"allow": true, "shadow": is_weekend}

default is_weekend := false

is_weekend if time.weekday([input.time, "Europe/Berlin"]) in {"Saturday", "Sunday"}
