"""The door to the namespace, the planner of the libraries, and the drives of one host.

Nothing is exported here; see `tapeserver.library` for the interface to tape hardware, `tapeserver.format` for what is
on a tape, and `tapeserver.mover` for the process that works one drive.
"""
