"""How Envoy asks: one file a transport, its wire codec beside it. The only part of the path that knows the wire."""
