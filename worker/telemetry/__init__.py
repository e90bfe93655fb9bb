"""Metrics, logs, traces, health endpoints and GPU readings."""
