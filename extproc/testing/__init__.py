"""What whoever writes an adapter needs to test it: a contract for each port, and stores in memory that keep it.

A contract is a class of tests. Subclass it under a name that your test runner collects, and say how an adapter is made.
"""
