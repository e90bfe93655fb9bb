"""What the figures are held against: the bounds of waits by lane, and prices of others, from the service's guide."""

from __future__ import annotations

from collections.abc import Mapping

# Seconds from the request to its first step.
BOUNDS_S: Mapping[str, float] = {"urgent": 2.0, "high": 5.0, "normal": 10.0}
# Dollars per picture.
OUTSIDE_USD: Mapping[str, float] = {"Promptchan": 0.02, "SinKin": 0.015, "Stability AI": 0.02}
# What the guide expects of a rented RTX 4090.
EXPECTED_USD = 0.002
