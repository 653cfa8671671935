"""`python -m capstan.demo`: a whole site on this machine, shown and checked from outside, with the real commands.

It holds no part of Capstan: whatever it does, a user or an operator could type. What it claims at the end it has
computed from the original files, never from what Capstan said about them.
"""
