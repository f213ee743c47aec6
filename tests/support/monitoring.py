"""What `deploy/` has for Prometheus and Grafana, and Debian's Prometheus to try it with."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.program import REPOSITORY
from tests.support.skips import require_program

PROMETHEUS = REPOSITORY / "deploy/prometheus"
DASHBOARDS = REPOSITORY / "deploy/grafana"
RUNBOOKS = REPOSITORY / "docs/runbooks"
RULES = PROMETHEUS / "rules.yml"
DOCUMENT = (REPOSITORY / "docs/monitoring.md").read_text()

TIMEOUT = 100.0
"""Seconds for one run of promtool; the longest takes ten, as weeks pass in it."""


def load(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text())


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """The rules of a kind, `alert` or `record`, by name."""
    return {rule[kind]: rule for group in load(RULES)["groups"] for rule in group["rules"] if kind in rule}


def promtool(*arguments: str | Path, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run promtool, with `text` on its standard input; skip where there is none."""
    tool = require_program("promtool", "prometheus")
    return subprocess.run([tool, *arguments], input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def dashboards() -> dict[str, dict[str, Any]]:
    """The dashboards by the names of their files."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Its panels, without the rows that they stand in."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def queries(dashboard: Mapping[str, Any], *, node: str) -> dict[str, str]:
    """The queries by `panel's title/letter`, as Grafana sends them for a node."""
    return {
        f"{panel['title']}/{target['refId']}": target["expr"].replace("$node", node)
        for panel in panels(dashboard)
        for target in panel["targets"]
    }


def relabelled(path: Path, targets: list[dict[str, Any]]) -> dict[str, Any]:
    """The job of the sidecars in a scrape configuration, with these static targets in place of those that it finds or names."""
    (job,) = (job for job in load(path)["scrape_configs"] if job["job_name"] == "cni-cleanup")
    kept = {name: value for name, value in job.items() if not name.endswith("_sd_configs")}
    return kept | {"static_configs": targets}


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in a query: every word that is no function, keyword, label or text."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]|\b(?:by|on|without|ignoring|group_left)\s*\([^)]*\)|\{[^}]*\}', " ", expression)
    return {word for word in re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\()\b", bare) if "_" in word or word in ("up", "ALERTS")}


_OTHERS = {"up", "ALERTS", "kube_daemonset_status_desired_number_scheduled"}
"""Metrics of Prometheus itself and of kube-state-metrics."""


def documented_metrics() -> set[str]:
    """The metrics that rules and dashboards may ask for: those of the documents, and a few of others'."""
    own = re.findall(
        r"`((?:cni_cleanup|apicnicleanup|celery)_[a-z_]+)[`{]", DOCUMENT + (REPOSITORY / "docs/sidecar.md").read_text()
    )
    return {*own, *rules("record"), *_OTHERS}
