"""From Kafka to admitted jobs, and the books of what is finished."""
