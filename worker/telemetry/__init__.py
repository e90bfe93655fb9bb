"""Metrics, logs, traces, health and GPU readings."""
