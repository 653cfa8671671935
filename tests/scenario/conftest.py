"""Whole sites for scenario tests: every process for real, started and stopped as a person does it.

`site` is the test's own, to be killed, stopped and started again at will. `shared_site` lives for the whole run: for
tests that leave it as they found it, each below a directory of its own.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from capstan.demo.site import Site
from tests.scenario.small_site import orderly_stop_seconds_max


@pytest.fixture
def site() -> Iterator[Site]:
    """A fresh site that serves: `site.url`, `site.env`, `site.run(argv)`, `site.stop()`, `site.start()`, `site.kill()`.

    At the end it is stopped by SIGINT, unless the test did that, and must have ended within 5 s.
    """
    with _site("capstan-site-") as fresh:
        yield fresh


@pytest.fixture(scope="session")
def shared_site() -> Iterator[Site]:
    """One site for all tests that only add to it, below directories of their own."""
    with _site("capstan-shared-") as shared:
        yield shared


@contextmanager
def _site(prefix: str) -> Iterator[Site]:
    # Not pytest's tmp_path: that lies below a directory of mode 700, which PostgreSQL's user cannot enter.
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    made = Site(directory)
    try:
        made.start()
        yield made
        if made.process is not None:
            took = made.stop()
            assert took < orderly_stop_seconds_max(), f"SIGINT stopped the site after {took:.1f} s only\n{made.logs()}"
    finally:
        made.remove()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failed test shows the end of the logs of every process of its site."""
    report = yield
    if report.failed:
        for name in ("site", "shared_site"):
            found = getattr(item, "funcargs", {}).get(name)
            if isinstance(found, Site):
                report.sections.append((f"logs of `{name}` in {found.directory}", found.logs(40)))
    return report
