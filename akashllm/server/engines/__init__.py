"""Engines: each a supervised child process behind the same framed protocol."""
