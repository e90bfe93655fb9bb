"""Which rows go into the next UNet step. Pure: no torch, no Kafka, no clock (`now` is an argument).

Policy: strict urgent > high > normal, first-come within a lane (`lanes`, `strict_order`), with a share of the steps
guaranteed to a lane that has waited beyond its bound (`guarantee`). Preemption is not being chosen: a parked row keeps
its state elsewhere.
"""
