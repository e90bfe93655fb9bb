"""The way of a job between the rooms: what each hands to the next, and how a job leaves.

read → gate → look up a stored result → start queue → record the start → engine → encode and upload → publish
"""
