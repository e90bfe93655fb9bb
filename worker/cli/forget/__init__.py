"""The `forget` verb: remove what is stored of a job, a girl or a user."""
