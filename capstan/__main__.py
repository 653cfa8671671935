"""`python -m capstan`: the same as the `capstan` command."""

from __future__ import annotations

import sys

from capstan.main import main

sys.exit(main())
