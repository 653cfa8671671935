"""Held jobs: submitted, pre-staged volume by volume, released when their last input is on disk and pinned.

It learns everything about files through the public HTTP API of the door, and never reads the catalog's tables.
"""
