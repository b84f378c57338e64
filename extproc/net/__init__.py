"""Where others reach Dropout, and how: addresses, sockets, certificates, HTTP; what every server stands on."""
