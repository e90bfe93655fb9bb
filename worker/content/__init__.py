"""What may be asked for: prompts as a reader would see them, and the rules about their words. Pure."""
