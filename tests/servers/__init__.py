"""Real servers and emulators for the integration tests: one module each, installed on demand.

Each module has a context manager that starts its server on a free port and stops it.
"""
