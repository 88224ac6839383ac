import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vitune.bench.claim import Claim, attempt_state, latest_attempt, try_claim


def claim(attempts: Path, retry: tuple[int, ...] = ()) -> Claim | None:
    return try_claim(attempts, stale_seconds=60, heartbeat_seconds=0.01, retry=retry)


def test_one_claim_at_a_time(tmp_path: Path):
    first = claim(tmp_path)
    assert first is not None
    assert first.number == 0
    assert attempt_state(tmp_path / "0", 60) == "running"
    assert claim(tmp_path) is None
    first.release()
    second = claim(tmp_path)
    assert second is not None
    assert second.number == 1
    assert not first.is_current()
    assert second.is_current()
    second.release()


def test_threads_that_race_make_one_winner(tmp_path: Path):
    barrier, won = threading.Barrier(8), []

    def race() -> None:
        barrier.wait()
        won.append(claim(tmp_path))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [winner for winner in won if winner is not None]
    assert (len(won), len(winners)) == (8, 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["0"]  # the losers have cleaned up
    winners[0].release()


def test_a_failed_attempt_is_kept_unless_asked(tmp_path: Path):
    first = claim(tmp_path)
    assert first is not None
    (first.folder / "error.json").write_text("{}")
    first.release()
    assert attempt_state(tmp_path / "0", 60) == "failed"
    assert claim(tmp_path) is None
    assert claim(tmp_path, retry=(7,)) is None
    second = claim(tmp_path, retry=(0,))
    assert second is not None
    second.release()


def owner_of(tmp_path: Path, **changes: object) -> Path:
    """Attempt 0, by the owner that the changes describe."""
    mine = claim(tmp_path)
    assert mine is not None
    mine.release()
    (tmp_path / "0" / "released").unlink()
    file = tmp_path / "0" / "owner.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return file


def test_a_dead_process_of_this_machine_is_stale_at_once(tmp_path: Path):
    child = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    child.wait()
    owner_of(tmp_path, pid=child.pid)
    assert attempt_state(tmp_path / "0", 60) == "stale"


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="needs /proc, which tells when a process started"
)
def test_a_process_that_got_the_number_of_a_dead_one_does_not_count(tmp_path: Path):
    owner_of(tmp_path, pid=os.getpid(), started="1")
    assert attempt_state(tmp_path / "0", 60) == "stale"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc, which tells zombies")
def test_a_killed_process_that_nobody_waited_for_is_dead(tmp_path: Path):
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    owner_of(tmp_path, pid=child.pid, started=started)
    assert attempt_state(tmp_path / "0", 60) == "running"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, yet still there
    assert attempt_state(tmp_path / "0", 60) == "stale"
    child.communicate()


def test_another_machine_is_judged_by_its_signs_of_life(tmp_path: Path):
    file = owner_of(tmp_path, machine="elsewhere", pid=1)
    assert attempt_state(tmp_path / "0", 60) == "running"
    assert claim(tmp_path) is None
    old = time.time() - 61
    os.utime(file, (old, old))
    assert attempt_state(tmp_path / "0", 60) == "stale"
    taken = claim(tmp_path)
    assert taken is not None
    assert taken.number == 1
    taken.release()


def test_the_heartbeat_renews_and_survives_a_folder_that_goes_away(tmp_path: Path):
    mine = claim(tmp_path)
    assert mine is not None
    file = mine.folder / "owner.json"
    os.utime(file, (0, 0))
    for _ in range(1000):
        if file.stat().st_mtime > 0:
            break
        time.sleep(0.01)
    assert file.stat().st_mtime > 0
    hidden = tmp_path / "hidden"
    mine.folder.rename(hidden)
    time.sleep(0.05)
    hidden.rename(mine.folder)
    os.utime(file, (0, 0))
    for _ in range(1000):
        if file.stat().st_mtime > 0:
            break
        time.sleep(0.01)
    assert file.stat().st_mtime > 0
    mine.release()


def test_latest_of_nothing(tmp_path: Path):
    assert latest_attempt(tmp_path / "absent") is None
    (tmp_path / ".new-1").mkdir()
    assert latest_attempt(tmp_path) is None
