"""Capacity: from pictures per day to GPUs, partitions and dollars, without a dispatcher and with one."""
