"""The acceptance walk: the lines that users type, with every process of a site running, in their order."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from capstan.demo.site import Site
from tests.scenario.small_site import orderly_stop_seconds_max

pytestmark = pytest.mark.timeout(180)

#: the very line of the acceptance
JOB_LINE = 'mkdir w; tget --list "$CAPSTAN_INPUT_LIST" w && cat w/* | wc -c'


def make_directory(root: Path, sizes: dict[str, int]) -> Path:
    for name, size in sizes.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    return root


def same_tree(left: Path, right: Path) -> bool:
    def names(root: Path) -> list[str]:
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    found = names(left)
    return found == names(right) and all(filecmp.cmp(left / name, right / name, shallow=False) for name in found)


def test_put_tape_drop_get_job_stop_and_everything_is_still_there_after_a_restart(site: Site, tmp_path: Path) -> None:
    sizes = {"one": 10_000, "two": 0, "three": 700_000, "four with a space": 1}
    directory = make_directory(tmp_path / "DIR1", sizes)
    single = make_directory(tmp_path, {"FILE": 3_000_000}) / "FILE"

    site.run(["tput", "-r", str(directory), "/exp/a"])
    site.run(["tput", "--wait", str(single), "/exp/b"])

    listing = site.run(["tls", "-l", "/exp"]).stdout
    assert "disk+tape" in next(line for line in listing.splitlines() if line.split()[-1].rstrip("/").endswith("b"))

    site.run(["capstan", "cache", "drop", "/exp"])
    assert locality(site, "/exp/b") == "tape"

    site.run(["tget", "/exp/b", str(tmp_path / "OUT")])
    assert filecmp.cmp(single, tmp_path / "OUT", shallow=False)

    job = site.run(["tjob", "submit", "--input", "/exp/a/*", "--wait", "--", "sh", "-c", JOB_LINE])
    assert job.stdout.strip() == str(sum(sizes.values()))

    assert isinstance(json.loads(site.run(["capstan", "queue", "--json"]).stdout), dict | list)
    assert site.run(["capstan", "explain", "/exp/b"]).stdout.strip()

    assert site.stop(signal.SIGINT) < orderly_stop_seconds_max()
    site.start()

    assert "b" in site.run(["tls", "/exp"]).stdout.split()
    site.run(["tget", "-r", "/exp/a", str(tmp_path / "A2")])
    assert same_tree(directory, tmp_path / "A2")
    site.run(["tget", "/exp/b", str(tmp_path / "OUT2")])
    assert filecmp.cmp(single, tmp_path / "OUT2", shallow=False)


def test_a_job_ends_tjob_with_its_own_exit_code_and_its_two_streams(shared_site: Site, tmp_path: Path) -> None:
    single = make_directory(tmp_path, {"f": 100}) / "f"
    shared_site.run(["tput", "--wait", str(single), "/code/f"])
    line = "echo out; echo err >&2; exit 7"
    done = shared_site.run(["tjob", "submit", "--input", "/code/f", "--wait", "--", "sh", "-c", line], check=False)
    assert done.returncode == 7
    assert done.stdout == "out\n"
    assert "err\n" in done.stderr


def test_what_waits_for_nothing_is_explained_too_and_status_is_well(shared_site: Site, tmp_path: Path) -> None:
    single = make_directory(tmp_path, {"f": 100}) / "f"
    shared_site.run(["tput", str(single), "/calm/f"])
    for argv in (["capstan", "explain", "/calm/f"], ["capstan", "explain", "/calm"], ["capstan", "status"]):
        assert shared_site.run(argv).stdout.strip(), argv
    volume = shared_site.call("GET", "/api/capstan/v1/volumes")
    names = json.dumps(volume)
    assert "E00001" in names
    assert shared_site.run(["capstan", "explain", "E00001"]).stdout.strip()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl: apt-get install curl")
def test_plain_curl_stores_a_file_and_gets_one_that_is_only_on_tape(shared_site: Site, tmp_path: Path) -> None:
    sent = make_directory(tmp_path, {"f": 2_000_000}) / "f"
    (tmp_path / "got").mkdir()
    url = f"{shared_site.url}/curl/f"
    token = shared_site.run(["capstan", "token", "show"]).stdout
    assert token == token.strip() + "\n"
    header = ["-H", f"Authorization: Bearer {token.strip()}"]
    shared_site.run(["tmkdir", "-p", "/curl"])

    shared_site.run(["curl", "-sS", "-fT", str(sent), *header, url])
    shared_site.run(["capstan", "cache", "drop", "--wait", "/curl"])
    assert locality(shared_site, "/curl/f") == "tape"
    shared_site.run(["curl", "-sS", "-f", "--retry", "20", "-O", *header, url], cwd=tmp_path / "got")
    assert filecmp.cmp(sent, tmp_path / "got" / "f", shallow=False)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl: apt-get install curl")
def test_plain_curl_without_a_token_is_refused_both_ways(shared_site: Site, tmp_path: Path) -> None:
    sent = make_directory(tmp_path, {"f": 2_000_000}) / "f"
    for arguments in (["-T", str(sent)], ["-o", str(tmp_path / "got")]):
        asked = ["curl", "-sS", "-w", "%{http_code}", "-o", os.devnull, *arguments, f"{shared_site.url}/nobody/f"]
        assert shared_site.run(asked).stdout.endswith("401")
        assert shared_site.run(["curl", "-sSf", *arguments, f"{shared_site.url}/nobody/f"], check=False).returncode != 0


@pytest.mark.skipif(shutil.which("rclone") is None, reason="no rclone: apt-get install rclone")
def test_rclone_copies_a_directory_in_and_out_again(shared_site: Site, tmp_path: Path) -> None:
    sent = make_directory(tmp_path / "sent", {"a": 10, "deep/er/b": 3_000_000, "deep/c d": 5_000})
    remote = ":webdav:rclone/copy"
    options = [
        "--webdav-url", shared_site.url, "--webdav-vendor", "other", "--retries", "1",
        "--webdav-bearer-token", shared_site.token, "--config", str(tmp_path / "none.conf"),
    ]  # fmt: skip
    shared_site.run(["rclone", "copy", str(sent), remote, *options])
    shared_site.run(["rclone", "copy", remote, str(tmp_path / "got"), *options])
    assert same_tree(sent, tmp_path / "got")
    shared_site.run(["tget", "-r", "/rclone/copy", str(tmp_path / "ours")])
    assert same_tree(sent, tmp_path / "ours")


def test_a_site_started_in_the_background_of_a_script_still_ends_by_sigint(site: Site) -> None:
    site.stop()
    # A shell without job control gives its background jobs SIGINT as ignored.
    line = f'capstan up --data "{site.data}" --port {site.port} >/dev/null 2>&1 & echo $!; wait'
    shell = subprocess.Popen(
        ["sh", "-c", line], env=site.env, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert shell.stdout is not None
        started = int(shell.stdout.readline())
        wait_until_it_answers(site)
        os.kill(started, signal.SIGINT)
        shell.wait(orderly_stop_seconds_max())
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()


def wait_until_it_answers(site: Site) -> None:
    for _ in range(200):
        if site.run(["capstan", "status"], check=False).returncode == 0:
            return
    pytest.fail("it never answered")


def locality(site: Site, path: str) -> str:
    """The word of `tls -l`, as the door gives it."""
    (entry,) = site.call("POST", "/api/capstan/v1/list", {"path": path})["entries"]
    return str(entry["label"])
