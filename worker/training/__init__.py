"""What makes weights: the demo SDXL from nothing, and LoRAs from a folder of pictures. No part of a running worker.

`scenes.py` draws captioned pictures, `judge.py` reads them back from pixels alone, `vocabulary.py`, `demo_vae.py` and
`demo_unet.py` are the parts of the demo model, `demo.py` trains them one after another, `truth.py` asks whether the
worker's pictures show what was asked, and `lora.py` trains a LoRA.
"""
