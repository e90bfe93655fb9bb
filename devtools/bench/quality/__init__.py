"""Quality of pictures: the truth test, the LoRA test and the golden pictures."""
