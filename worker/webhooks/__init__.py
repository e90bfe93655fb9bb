"""Webhooks: a signed HTTP POST for each result, sent by a consumer of its own."""
