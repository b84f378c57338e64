"""The request path: request → attributes → gather → decide → mutation."""
