"""Conformance suites that others can run against their own components."""
