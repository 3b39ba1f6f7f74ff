import sys
import time
from pathlib import Path

import pytest
from benchmarks import watch
from benchmarks.server import SetupError, nginx_program, photographs, serve


def test_memory_and_time_of_all_processes_are_added_up(tmp_path: Path) -> None:
    child = "x = bytearray(60_000_000)\nimport time\nt = time.process_time()\n"
    child += "while time.process_time() < t + 0.6: pass\ntime.sleep(0.8)"
    script = "import subprocess, sys\n"
    script += f"c = [subprocess.Popen([sys.executable, '-c', {child!r}]) for _ in range(2)]\n"
    script += "sys.exit(max(p.wait() for p in c))"
    done = watch.run([sys.executable, "-c", script], tmp_path / "log", memory=True)
    assert done.peak > 120_000_000
    assert 1.0 < done.cpu_s < 4.0
    assert len(done.processes_at_peak) == 3


def test_a_tool_that_fails_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(watch.ToolFailed, match="no such list"):
        watch.run([sys.executable, "-c", "raise SystemExit('no such list')"], tmp_path / "log")


def test_what_a_tool_leaves_running_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    orphan = f"import time, pathlib\ntime.sleep(2)\npathlib.Path({str(mark)!r}).touch()"
    script = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {orphan!r}])"
    watch.run([sys.executable, "-c", script], tmp_path / "log")
    time.sleep(2.5)
    assert not mark.exists()


def test_the_first_request_is_seen_at_the_server(tmp_path: Path) -> None:
    try:
        nginx_program()
    except SetupError as missing:
        pytest.skip(str(missing))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a b.jpg").write_bytes(b"body")
    assert photographs(tmp_path) == [Path("photos/a b.jpg")]
    with serve(tmp_path) as server:
        script = "import time, urllib.request\ntime.sleep(0.5)\n"
        script += f"r = urllib.request.urlopen('http://{server.host}/photos/a%20b.jpg?1')\n"
        script += "assert r.read() == b'body'\ntime.sleep(0.3)"
        done = watch.run([sys.executable, "-c", script], tmp_path / "log", server=server)
        assert done.started + 0.5 < done.first_request < done.ended - 0.2
    with pytest.raises(ConnectionError):
        server.requests()
