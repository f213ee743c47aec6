"""The dashboards: JSON that Grafana can import, and queries that Prometheus understands."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.monitoring import dashboards, documented_metrics, metrics_in, panels, promtool, queries

BOARDS = dashboards()


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_asks_for_documented_metrics_only(name: str):
    for title, expression in queries(BOARDS[name], node="node-1").items():
        named = metrics_in(expression)
        assert named, title
        assert named <= documented_metrics(), title


@pytest.mark.parametrize("name", BOARDS)
def test_promtool_takes_every_query_of_a_dashboard(name: str, tmp_path: Path):
    asked = queries(BOARDS[name], node="node-1")
    as_rules = [{"record": f"query:{number}", "expr": expression} for number, expression in enumerate(asked.values())]
    assert as_rules
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": name, "rules": as_rules}]}))
    done = promtool("check", "rules", tmp_path / "rules.yml")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_can_be_imported_again_and_again_into_any_grafana(name: str):
    board = BOARDS[name]
    assert board["uid"] == f"cni-cleanup-{name}"
    assert "id" not in board
    assert board["schemaVersion"] >= 41
    (source,) = (one for one in board["templating"]["list"] if one["type"] == "datasource")
    assert (source["name"], source["query"]) == ("datasource", "prometheus")
    uids = set(re.findall(r'"type": "prometheus", "uid": "([^"]*)"', json.dumps(board)))
    assert uids == {"${datasource}"}


def problems_of(panel: dict[str, Any]) -> list[str]:
    """What a panel lacks for somebody who has never seen it."""
    defaults = panel["fieldConfig"]["defaults"]
    found = [] if panel["description"].endswith(".") else ["no description"]
    units = [
        defaults.get("unit"),
        *(one["value"] for rule in panel["fieldConfig"]["overrides"] for one in rule["properties"] if one["id"] == "unit"),
    ]
    if not any(units):
        found.append("no unit")
    if "thresholds" not in defaults:
        found.append("no thresholds")
    return found


@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_says_what_it_shows_in_which_unit(name: str):
    found = {panel["title"]: problems_of(panel) for panel in panels(BOARDS[name])}
    assert {title: what for title, what in found.items() if what} == {}


@pytest.mark.parametrize("name", BOARDS)
def test_no_two_panels_lie_over_each_other_or_have_one_name(name: str):
    places = [
        (x, y)
        for place in (panel["gridPos"] for panel in BOARDS[name]["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) == 23
    titles = [panel["title"] for panel in BOARDS[name]["panels"]]
    assert len(titles) == len(set(titles))
