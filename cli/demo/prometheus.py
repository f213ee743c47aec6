"""A configuration with which a Prometheus watches the demo's sidecars; starting one is left to whoever looks."""

import json
from collections.abc import Mapping
from pathlib import Path

_RULES = Path(__file__).parents[2] / "deploy/prometheus/rules.yml"
"""There in a checkout alone: no package has them."""

_LISTEN = "127.0.0.1:9090"


def write(targets: Mapping[str, str], directory: Path) -> str:
    """Write `prometheus.yml` for the sidecars, `HOST:PORT` by node; the command that starts a Prometheus with it."""
    file = directory / "prometheus.yml"
    file.write_text(_configuration(targets))
    return f"prometheus --config.file={file} --storage.tsdb.path={directory / 'prometheus'} --web.listen-address={_LISTEN}"


def _configuration(targets: Mapping[str, str]) -> str:
    # Strings as JSON has them are YAML, whatever they hold.
    rules = ["rule_files:", f"  - {json.dumps(str(_RULES))}"] if _RULES.exists() else []
    jobs = ["scrape_configs:", "  - job_name: cni-cleanup", "    scrape_interval: 5s", "    static_configs:"]
    for node, target in targets.items():
        jobs += [f"      - targets: [{json.dumps(target)}]", f"        labels: {{node: {json.dumps(node)}}}"]
    return "\n".join([*rules, *jobs, ""])
