"""Rules, alerts, runbooks and scrape configurations: whole, in agreement, and tried by promtool."""

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from cli.program import program
from tests.support.monitoring import (
    DOCUMENT,
    PROMETHEUS,
    RULES,
    RUNBOOKS,
    documented_metrics,
    load,
    metrics_in,
    promtool,
    relabelled,
    rules,
)
from tests.support.program import REPOSITORY

ALERTS = rules("alert")
RECORDS = rules("record")
UNIT_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
CASES = [case for path in UNIT_TESTS for case in load(path)["tests"]]

SECTIONS = ["Means", "How sure", "Look", "Do", "False alarm"]


def test_promtool_takes_the_rules():
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stderr
    assert f"{len(ALERTS) + len(RECORDS)} rules found" in done.stdout


def test_promtool_takes_the_scrape_configuration():
    done = promtool("check", "config", PROMETHEUS / "scrape.yml")
    assert done.returncode == 0, done.stderr


def test_promtool_takes_the_scrape_configuration_of_kubernetes_but_for_the_discovery(tmp_path: Path):
    # Debian's Prometheus is built without the discovery of clouds and of Kubernetes.
    jobs = load(PROMETHEUS / "scrape-kubernetes.yml")["scrape_configs"]
    assert [job.pop("kubernetes_sd_configs")[0]["role"] for job in jobs] == ["pod", "pod"]
    (tmp_path / "scrape.yml").write_text(yaml.safe_dump({"scrape_configs": jobs}))
    done = promtool("check", "config", tmp_path / "scrape.yml")
    assert done.returncode == 0, done.stderr


def test_both_scrape_configurations_scrape_the_same_in_the_same_way():
    jobs = [
        {job["job_name"]: (job["scrape_interval"], job["scrape_timeout"]) for job in load(PROMETHEUS / name)["scrape_configs"]}
        for name in ("scrape.yml", "scrape-kubernetes.yml")
    ]
    assert jobs[0] == jobs[1]
    assert jobs[0]["celery-exporter"] == ("60s", "30s")


def test_the_static_targets_have_the_label_that_rules_know_a_node_by():
    (job,) = (job for job in load(PROMETHEUS / "scrape.yml")["scrape_configs"] if job["job_name"] == "cni-cleanup")
    assert all("node" in targets["labels"] for targets in job["static_configs"])
    assert "static_configs" in relabelled(PROMETHEUS / "scrape-kubernetes.yml", [])


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_the_rules_pass_their_unit_tests(path: Path):
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_pass_their_unit_tests_after_the_documented_change_of_the_runbooks_address(tmp_path: Path):
    (commands,) = re.findall(r"^```sh\n(cd deploy/prometheus\nsed .*)\n```$", DOCUMENT, flags=re.MULTILINE)
    copy = shutil.copytree(PROMETHEUS, tmp_path / "deploy/prometheus")
    subprocess.run(["bash", "-ec", commands], cwd=tmp_path, check=True)
    addresses = re.findall("runbook_url: (.*)docs/runbooks/", (copy / "rules.yml").read_text())
    assert addresses == ["https://git.example.org/cni-cleanup/"] * len(ALERTS)
    done = promtool("test", "rules", *sorted((copy / "tests").glob("*.yml")))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_unit_tests_in_which_it_fires_and_in_which_it_does_not(alert: str):
    expected = [test["exp_alerts"] for case in CASES for test in case.get("alert_rule_test", ()) if test["alertname"] == alert]
    assert any(expected), "no test sees it fire"
    assert [] in expected, "no test sees it be silent"


@pytest.mark.parametrize("record", RECORDS)
def test_every_recording_rule_has_a_unit_test_of_its_value(record: str):
    labels = [
        sample.get("labels", "") for case in CASES for test in case.get("promql_expr_test", ()) for sample in test["exp_samples"]
    ]
    assert any(label.partition("{")[0] == record for label in labels)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_bad_it_is_what_where_and_what_to_do(alert: str):
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{alert}.md"


def test_every_alert_has_a_runbook_and_every_runbook_an_alert():
    assert {path.stem for path in RUNBOOKS.iterdir()} == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_a_runbook_answers_the_same_five_questions_and_begins_with_the_severity(alert: str):
    text = (RUNBOOKS / f"{alert}.md").read_text()
    assert text.startswith(f"# {alert}\n{ALERTS[alert]['labels']['severity']}. ")
    assert re.findall("^## (.*)$", text, flags=re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("alert", ALERTS)
def test_a_runbook_names_only_commands_that_there_are(alert: str):
    named = set(re.findall(r"(?:`|-- |^)cni-cleanup ([a-z]+)", (RUNBOOKS / f"{alert}.md").read_text(), flags=re.MULTILINE))
    assert named <= set(program.list_commands(click.Context(program)))


def links(path: Path) -> set[str]:
    return set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()))


@pytest.mark.parametrize("path", [REPOSITORY / "docs/monitoring.md", *sorted(RUNBOOKS.iterdir())], ids=lambda path: path.stem)
def test_what_the_pages_lead_to_is_there(path: Path):
    assert [link for link in links(path) if not (path.parent / link).exists()] == []


def test_the_table_of_alerts_has_each_with_its_severity_and_its_time():
    rows = {
        row[0]: (row[1], row[2].replace(" min", "m").replace(" h", "h"))
        for row in re.findall(r"^\| \[(\w+)\]\(runbooks/\1\.md\) \| (\w+) \|.*\| ([^|]+) \|$", DOCUMENT, flags=re.MULTILINE)
    }
    assert rows == {name: (rule["labels"]["severity"], rule["for"]) for name, rule in ALERTS.items()}


def test_the_table_of_recorded_metrics_has_all_of_them():
    assert set(re.findall(r"^\| `([a-z_]*:[a-z_:]+)` \|", DOCUMENT, flags=re.MULTILINE)) == set(RECORDS)


@pytest.mark.parametrize("name", [*ALERTS, *RECORDS])
def test_a_rule_asks_for_documented_metrics_only(name: str):
    named = metrics_in({**ALERTS, **RECORDS}[name]["expr"])
    # The schedule is a matter of the clock alone.
    assert named or name == "cni_cleanup:last_schedule:timestamp_seconds"
    assert named <= documented_metrics()
