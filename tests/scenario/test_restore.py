"""A catalog restored from a backup that the tapes are ahead of: what lies on them is found, nothing is overwritten."""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from capstan.demo.site import Site
from tests.scenario.small_site import query, small_site, soon

pytestmark = pytest.mark.timeout(240)

CONFIGURATION = """
[tapeserver]
collecting_age_seconds = 0.2
bundle_seconds = 0
flush_idle_seconds = 0
dismount_delay_seconds = 0.1
journal_seconds = 1.0

[[libraries]]
name = "east"
cartridges = 2
capacity = "200 MB"

[[libraries]]
name = "west"
cartridges = 1
capacity = "200 MB"
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with small_site(CONFIGURATION) as made:
        yield made


def test_the_tapes_are_ahead_of_the_backup(site: Site, tmp_path: Path) -> None:
    names = ("before", "after", "lost", "new")
    for name in names:
        (tmp_path / name).write_bytes(os.urandom(200_000))
    data = ["--data", str(site.data)]

    # given a backup, and a file that went to tape after it, and one that did not
    site.run(["tput", "--wait", str(tmp_path / "before"), "/exp/before"])
    made = json.loads(site.run(["capstan", "db", "backup", *data, "--json"]).stdout)
    assert made["verified"] == "restored"
    site.run(["tput", "--wait", str(tmp_path / "after"), "/exp/after"])
    for library in ("east", "west"):
        site.call("POST", f"/api/capstan/v1/libraries/{library}", {"state": "down", "reason": "test"})
    site.run(["tput", str(tmp_path / "lost"), "/exp/lost"])
    told = json.loads(site.run(["capstan", "db", "journal", "--now", *data, "--json"]).stdout)
    assert Path(told["path"]).exists()
    refused = site.run(["capstan", "db", "restore", made["path"], *data, "--replace"], check=False)
    assert refused.returncode == 1
    assert "another `capstan up` runs" in refused.stderr
    last_epoch = query(site, "select max(epoch) from mount_history")[0][0]
    site.stop()

    # when the catalog is made again from it
    refused = site.run(["capstan", "db", "restore", made["path"], *data], check=False)
    assert "not empty" in refused.stderr
    restored = json.loads(site.run(["capstan", "db", "restore", made["path"], *data, "--replace", "--json"]).stdout)
    assert restored["set_aside"].startswith("capstan_before_")
    site.start()

    # then what the backup knows is there, and the next write finds what it does not
    site.run(["tput", "--wait", str(tmp_path / "new"), "/exp/new"])
    soon(lambda: "after" in site.run(["tls", "/exp"]).stdout.split(), seconds=60, what="adopted")
    site.run(["capstan", "cache", "drop", "--wait", "/exp"])
    for name in names:
        site.run(["tget", f"/exp/{name}", str(tmp_path / f"{name}.got")])
        assert filecmp.cmp(tmp_path / name, tmp_path / f"{name}.got", shallow=False)
    assert (
        query(
            site,
            "select min(epoch) from mount_history where ended_at > (select max(at) from audit"
            " where action = 'catalog.restored')",
        )[0][0]
        > last_epoch + 10**5
    )
    # and what never went to tape has its name again, by the journal's word, and goes there
    assert site.run(["tls", "/exp"]).stdout.split() == ["after", "before", "lost", "new"]
    aside = [path.read_bytes() for path in (site.data / "cache" / "quarantine").iterdir()]
    assert (tmp_path / "lost").read_bytes() not in aside
