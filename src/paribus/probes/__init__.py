"""Probes: measurements that train nothing; one part a file."""
