"""What if: the real planner and order of reads against the drive model, in virtual time.

It reads no catalog and moves no bytes; docs/simulator.md has the format of traces and what is and is not simulated.
"""
