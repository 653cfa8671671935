"""Reading what the catalog does not know: tape files behind its end, whole volumes, whole libraries.

`tapereader` the bytes of one tape file, `tapefiles` tape files by their own headers, `volume` one volume (indexes
first), `rescanning` all volumes of some libraries. Writes nothing on tape. What follows for the catalog is in
`catalog.rebuild` and `catalog.adoption`.
"""
