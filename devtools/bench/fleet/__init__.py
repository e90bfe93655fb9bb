"""`bench fleet`: a fleet with and without a dispatcher, simulated, and on a real Kafka."""
