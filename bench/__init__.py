"""`python -m bench`: the numbers that Capstan has to reach, measured, each beside its peer in the same run.

Not packaged. Nothing here is a test: a missed target is a row that says so, never a failure.
"""
