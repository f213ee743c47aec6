"""Write deploy/prometheus/rules.yml as a PrometheusRule, for the Prometheus Operator: the same text, one level deeper."""

from pathlib import Path

_DEPLOY = Path(__file__).parents[1] / "deploy"

RULES = _DEPLOY / "prometheus/rules.yml"
RULE = _DEPLOY / "kubernetes/components/monitoring/prometheus-rule.yaml"

_HEAD = """\
# Made of deploy/prometheus/rules.yml by tools/prometheus_rule.py: edit it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: cni-cleanup
  namespace: cni-cleanup
  labels:
    app.kubernetes.io/part-of: cni-cleanup
spec:
"""


def prometheus_rule(rules: str) -> str:
    """The manifest of the rules; it keeps their comments."""
    _, groups, rest = rules.partition("groups:\n")
    lines = (groups + rest).splitlines()
    return _HEAD + "".join(f"  {line}\n" if line else "\n" for line in lines)


if __name__ == "__main__":
    RULE.write_text(prometheus_rule(RULES.read_text()))
    print(f"{RULE} is written")
