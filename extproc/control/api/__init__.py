"""The control API: what ``control.proto`` says, on a Unix socket, and the client that speaks it."""
