"""The mover: the process that works one drive, started as `python -m tapeserver.mover --fd N` by a session.

It reads and writes what the session tells it over a socket pair (`tapeserver.frames`), moves the bytes to and from the
cache servers in bulk streams (`client.bulkframes`), and reports. It plans nothing, knows no catalog, and never works
the changer. One thread works the drive, one listens to the session, two per cache server move bytes; everything in
between is bounded.

    process   the threads, the parent's death, one mount after the other
    plan      what is to be done: filled by the session's messages, emptied by the drive's thread
    volume    is it the right volume, where does it end: labels and the rule for appending
    recall    tape to cache          archive   cache to tape
    senders   streams to a cache     fetchers  streams from a cache
"""
