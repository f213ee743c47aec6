"""Redis is away, slow, half-open, closed to us or full: what waits goes on by itself, and who asks is told in one line."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tasks.sweep import account_of
from tests.support.chaos import PATIENCE, SHORTER, Make, chaos_in
from tests.support.chaos_proxy import proxy_to
from tests.support.polling import until
from tests.support.program import REPOSITORY, child_environment, run

pytestmark = pytest.mark.timeout(400)

PASSWORD = "right"  # noqa: S105  # of a server that lives for one test

NOTICED_SOON: dict[str, Any] = {
    **SHORTER,
    "transport": {**SHORTER["transport"], "health_check_interval": 2, "socket_timeout": 3, "polling_interval": 1},
    "constants": {"tasks.broker:ANSWERS_WITHIN": 3.0},
}
"""As the product has it, with seconds instead of half minutes until a connection that says nothing is taken for lost."""

TAKEN_UP_SOON: dict[str, Any] = {
    # The message itself is not to come again, which any worker sees to: control is to notice that a sweep was interrupted.
    "transport": {**SHORTER["transport"], "visibility_timeout": 3600},
    "constants": {"tasks.pulse:_EVERY": 2.0, "tasks.ledger:LEASE": 6, "tasks.sweep:LEASE": 6},
}
"""As the product has it, with a look each 2 s instead of 60, and a lease of 6 s instead of 30."""


@pytest.fixture
def make_chaos(tmp_path: Path) -> Iterator[Make]:
    with chaos_in(tmp_path) as make:
        yield make


def celery(broker: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The `celery` command, as an operator has it."""
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", *arguments],
        env=child_environment({"CNI_CLEANUP_BROKER": broker}),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_fleet_goes_on_by_itself_when_redis_was_away(make_chaos: Make):
    chaos = make_chaos(2)
    down = [f"node-down-{number:02}" for number in range(60)]
    control = chaos.start_control(known=[*chaos.nodes, *down])
    chaos.wait_ready(
        control,
        chaos.start_worker("node-1"),
        chaos.start_worker("node-2", wait_at="waiting"),
    )
    # While it is idle.
    chaos.server.stop()
    until(lambda: all(chaos.said(one, "Connection to broker lost") for one in (control, *chaos.workers.values())), seconds=60)
    chaos.server.start()
    # While it asks the nodes, and while one works.
    sweep_id = chaos.sweep(spread=0.1)
    until(chaos.marker("node-2", "waiting").exists, seconds=PATIENCE, what="a job")
    until(lambda: len(chaos.ledger.asked(sweep_id)) > 20, seconds=PATIENCE, what="half of the fan-out")
    chaos.server.kill()
    chaos.marker("node-2", "go").touch()
    until(lambda: chaos.said(chaos.workers["node-2"], "takes nothing"), seconds=PATIENCE, what="a report that nobody takes")
    chaos.server.start()
    account = chaos.wait_for_account(sweep_id, lambda account: account["asked"] is not None and account["cleaned"] == 2)
    assert (account["expected"], account["missed"], account["state"]) == (62, 60, "incomplete")
    chaos.check_drained()
    chaos.check_cleaned()
    # Of a message whose answer was lost nobody knows whether Redis had it: it is sent again.
    lengths = [chaos.client.llen(f"node.{node}") for node in down]
    assert set(lengths) <= {1, 2}
    assert sum(lengths) <= 60 + 20
    assert chaos.passes("node-1") == chaos.passes("node-2") == {"ok": 1}
    chaos.check_good(chaos.wait_complete(chaos.sweep(*chaos.nodes)))


def test_a_sweep_whose_control_was_killed_in_the_middle_goes_on(make_chaos: Make):
    chaos = make_chaos(2)
    down = [f"node-down-{number:02}" for number in range(30)]
    known = [*chaos.nodes, *down]
    control = chaos.start_control(known=known, options=TAKEN_UP_SOON)
    chaos.wait_ready(control, *(chaos.start_worker(node, options=TAKEN_UP_SOON) for node in chaos.nodes))
    sweep_id = chaos.sweep(spread=0.2)
    until(lambda: len(chaos.ledger.asked(sweep_id)) > 5, seconds=PATIENCE, what="a part of the fan-out")
    control.end()
    assert len(chaos.ledger.asked(sweep_id)) < len(known)
    assert account_of(chaos.ledger, sweep_id)["state"] == "running"
    chaos.wait_ready(chaos.start_control(known=known, options=TAKEN_UP_SOON))
    chaos.wait_for_account(sweep_id, lambda account: account["asked"] is not None and account["cleaned"] == 2)
    lengths = [chaos.client.llen(f"node.{node}") for node in down]
    assert set(lengths) <= {1, 2}
    assert sum(lengths) <= 31
    assert chaos.passes("node-1") == chaos.passes("node-2") == {"ok": 1}
    chaos.check_cleaned()


def test_a_slow_and_then_half_open_broker_costs_time_and_no_job(make_chaos: Make):
    chaos = make_chaos(2)
    with proxy_to(chaos.server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        proxy.delay = 0.03
        control = chaos.start_control(broker=url, options=NOTICED_SOON)
        chaos.start_worker("node-1", broker=url, options=NOTICED_SOON)
        chaos.start_worker("node-2", broker=url, options=NOTICED_SOON, wait_at="waiting")
        chaos.wait_ready(control, *chaos.workers.values())
        sweep_id = chaos.sweep()
        until(chaos.marker("node-2", "waiting").exists, seconds=PATIENCE, what="a job")
        chaos.wait_for_account(sweep_id, lambda account: account["cleaned"] == 1)
        proxy.delay = 0.0
        proxy.stall()
        chaos.marker("node-2", "go").touch()
        other = chaos.app.send_task("tasks.scan_node", ["node-1"])
        until(lambda: chaos.said(chaos.workers["node-2"], "takes nothing"), seconds=PATIENCE, what="a report that nobody takes")
        until(lambda: chaos.said(chaos.workers["node-1"], "Connection to broker lost"), seconds=PATIENCE, what="its notice")
        proxy.recover()
        assert chaos.wait(other)["node"] == "node-1"
        chaos.check_good(chaos.wait_complete(sweep_id))
        chaos.check_drained()
        assert chaos.passes("node-1") == chaos.passes("node-2") == {"ok": 1}


@pytest.mark.parametrize("own", ["", ":wrong@"], ids=["no password", "wrong password"])
def test_who_has_not_the_password_is_told_in_one_line_and_a_worker_waits_for_it(make_chaos: Make, tmp_path: Path, own: str):
    chaos = make_chaos(1, password=PASSWORD)
    url = f"redis://{own}127.0.0.1:{chaos.server.port}/0"
    workers = [chaos.start_worker("node-1", broker=url), chaos.start_control(broker=url)]
    for command in (["job", "--autodiscover"], ["job", "--stop"], ["report"]):
        done = run(*command, "--broker", url, home=tmp_path)
        assert done.status == 1
        assert "password" in done.line
    called = celery(url, "call", "tasks.clean_node", "--args", '["node-1"]')
    assert (called.returncode, called.stdout) == (1, "")
    assert len(called.stderr.splitlines()) == 1
    assert "password" in called.stderr
    for worker in workers:
        # It backs off.
        until(partial(chaos.said, worker, "Trying again in 4.00 seconds"), seconds=PATIENCE, what="the second try")
        assert worker.running()
        assert not chaos.said(worker, "Traceback")
    chaos.client.config_set("requirepass", own.strip(":@"))
    chaos.wait_ready(*workers)


def test_full_memory_is_told_in_one_line_and_a_report_waits_for_room(make_chaos: Make, tmp_path: Path):
    chaos = make_chaos(3)
    workers = [chaos.start_worker("node-1", wait_at="swept"), chaos.start_worker("node-2", wait_at="waiting")]
    chaos.wait_ready(chaos.start_control(), *workers)
    sweep_id = chaos.sweep("node-1")
    chaos.app.send_task("tasks.clean_node", ["node-2"])
    for node in ("node-1", "node-2"):
        until(chaos.marker(node, "waiting").exists, seconds=PATIENCE, what="a pass")
    queued = chaos.app.send_task("tasks.scan_node", ["node-2"])
    chaos.client.config_set("maxmemory-policy", "noeviction")
    chaos.client.config_set("maxmemory", 1)
    late = chaos.start_worker("node-3")
    for node in ("node-1", "node-2"):
        chaos.marker(node, "go").touch()
    until(lambda: chaos.said(workers[0], "takes nothing"), seconds=PATIENCE, what="a report that nobody takes")
    until(lambda: chaos.said(workers[1], "does not take note"), seconds=PATIENCE, what="an end that nobody takes note of")
    until(lambda: chaos.said(late, "maxmemory"), seconds=PATIENCE, what="a worker's start")
    for command in (["job", "--autodiscover"], ["job", "--stop"]):
        done = run(*command, "--broker", chaos.server.url, home=tmp_path)
        assert done.status == 1
        assert "memory" in done.line
    called = celery(chaos.server.url, "call", "tasks.clean_node", "--args", '["node-1"]')
    assert (called.returncode, called.stdout) == (1, "")
    assert len(called.stderr.splitlines()) == 1
    assert "memory" in called.stderr
    assert run("report", "--broker", chaos.server.url, home=tmp_path).status == 0
    assert account_of(chaos.ledger, sweep_id)["state"] == "running"
    chaos.client.config_set("maxmemory", 0)
    chaos.check_good(chaos.wait_complete(sweep_id))
    assert chaos.wait(queued)["node"] == "node-2"
    chaos.wait_ready(late)
    chaos.check_drained()
    chaos.check_live()
    assert chaos.passes("node-1") == {"ok": 1}
