"""Do the pictures show what was asked? Truth test, LoRA lessons, golden pictures."""
