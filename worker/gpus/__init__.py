"""`run --gpus`: one worker process for each card of this machine, and one process that looks after them."""
