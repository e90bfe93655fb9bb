"""What the step scheduler is worth: the real engine in a virtual time, beside other policies and diffusers."""
