"""What policies need of the extra ``rego``: keys, signatures and certificates."""
