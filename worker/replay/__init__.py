"""Replay of past requests: select them, look up their results, then verify or publish them again."""
