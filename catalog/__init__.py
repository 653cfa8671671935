"""The durable record of Capstan and its vocabulary: what is stored, which states there are, who may move them.

One module per noun is the only way to SQL. Nothing here speaks HTTP, reads a disk cache or moves a tape.
"""
