"""Train the demo SDXL from scratch on pictures of coloured shapes that this package draws and captions.

`scenes.py` draws and captions pictures, `judge.py` reads scenes back from pixels, `vocabulary.py`, `vae.py` and
`unet.py` are the parts of the model, `fit.py` is their training loop, and `train.py` runs all the stages.
"""

import worker.models  # noqa: F401 - quietens transformers before it is first imported
