"""From pixels to a picture that is durable and announced."""
