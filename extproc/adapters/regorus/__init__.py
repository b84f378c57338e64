"""Rego by regorus: policies on requests in process, policies on control actions in a process of their own."""
