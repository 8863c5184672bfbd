"""Sizing against published figures."""
