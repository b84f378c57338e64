"""Redis, and what speaks its protocol, as Valkey does."""
