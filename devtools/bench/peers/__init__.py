"""Workers that a user would write or take in place of this one, for comparison: nothing else uses them.

Each reads JSON requests from a topic for each lane, calls the diffusers pipeline for one request at a time, stores the
picture, its thumbnail and what it was made of in S3, and writes a JSON record to a topic of completed requests. They
deliver at least once, and know no preemption, no cancellation and no limits. The environment configures them.
"""
