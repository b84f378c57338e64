"""Builtins of OPA that the engine lacks or answers otherwise: one module a family, by kept libraries."""
