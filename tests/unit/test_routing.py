"""Where messages go, asked of Celery's own router, without a broker."""

from typing import Any

import pytest

from cni.settings import Settings
from tasks import names
from tasks.celery_app import CleanupApp
from tasks.errors import Refused


@pytest.fixture
def app() -> CleanupApp:
    app = CleanupApp("test")
    app.use(Settings(broker="memory://"))
    return app


def queue_of(app: CleanupApp, name: str, *args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> str:
    """The queue that Celery would send this call to."""
    queue: str = app.amqp.router.route(options or {}, name, args, kwargs)["queue"].name
    return queue


@pytest.mark.parametrize("task", [names.CLEAN_NODE, names.SCAN_NODE])
def test_a_node_task_goes_to_the_queue_of_its_node(app: CleanupApp, task: str):
    assert queue_of(app, task, "node-7") == "node.node-7"
    assert queue_of(app, task, node="a.b") == "node.a.b"
    assert queue_of(app, task, "node-7", True, sweep_id="x") == "node.node-7"


def test_a_sweep_and_its_account_go_to_control(app: CleanupApp):
    assert queue_of(app, names.SWEEP) == "control"
    assert queue_of(app, names.SWEEP, ["node-7"], dry_run=True) == "control"
    assert queue_of(app, names.SWEEP, selector="pool=a", spread=0.5) == "control"
    assert queue_of(app, names.REPORT) == "control"
    assert queue_of(app, names.REPORT, "a-sweep") == "control"


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        pytest.param((), {}, "no node is named", id="none"),
        pytest.param((), {"dry_run": True}, "no node is named", id="other arguments only"),
        pytest.param(("",), {}, "not the name of a node", id="empty"),
        pytest.param((None,), {}, "not the name of a node", id="null"),
        pytest.param(("Node_7",), {}, "not the name of a node", id="malformed"),
        pytest.param((["node-7"],), {}, "not the name of a node", id="a list"),
        pytest.param((), {"node": 7}, "not the name of a node", id="a number by name"),
        pytest.param(("node-7",), {"node": "node-8"}, "named twice", id="twice"),
    ],
)
@pytest.mark.parametrize("task", [names.CLEAN_NODE, names.SCAN_NODE])
def test_a_node_task_without_one_proper_node_is_refused(
    app: CleanupApp, task: str, args: tuple[Any, ...], kwargs: dict[str, Any], why: str
):
    with pytest.raises(Refused, match=why) as refusal:
        app.amqp.router.route({}, task, args, kwargs)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["tasks.clean", "tasks.clean_node2", "celery.backend_cleanup", "os.system", ""])
def test_a_task_that_there_is_not_is_refused(app: CleanupApp, name: str):
    with pytest.raises(Refused, match="no such task"):
        queue_of(app, name, "node-7")


def test_a_queue_of_the_callers_own_choice_is_refused(app: CleanupApp):
    with pytest.raises(Refused, match=r"goes to queue node.node-7, not to node.node-8"):
        queue_of(app, names.CLEAN_NODE, "node-7", options={"queue": "node.node-8"})
    with pytest.raises(Refused, match="not to celery"):
        queue_of(app, names.SWEEP, options={"queue": "celery"})


def test_the_right_queue_may_be_named(app: CleanupApp):
    # A retry names the queue that its message came from.
    assert queue_of(app, names.CLEAN_NODE, "node-7", options={"queue": "node.node-7"}) == "node.node-7"
