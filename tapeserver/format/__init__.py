"""What is on a tape, byte for byte, as docs/storage.md describes it. Pure: builds and checks; reads and writes no tape.

`objects` is the order of all, `labels` stand around each tape file, `pax` is the archive in it, `bundles` are many
files in one archive, `indexes` tell of all that is on a volume.
"""
