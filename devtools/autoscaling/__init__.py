"""What KEDA's target does to waits and cost: fleets that are scaled by their lag, simulated event by event."""
