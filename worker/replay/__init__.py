"""Replay of past requests: selection, plan, verification, publication."""
