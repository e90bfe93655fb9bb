"""Train LoRAs from a folder of captioned pictures. Used by `models train-lora`, never by a running worker.

`dataset.py` reads the pictures and captions, `lora.py` trains, `pixels.py` converts pictures to tensors, and
`progress.py` has the types of the progress callbacks.
"""
