"""docs/listen.md names what is there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from onfh_runtime.listen.config import Destination, Disk, Http, ListenConfig, Retry, SeriesRule
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.metrics import Metrics

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "listen.md").read_text()


def names(tmp_path: Path) -> set[str]:
    journal = Journal(tmp_path / "journal.sqlite")
    text = Metrics(journal, tmp_path, routes=["ct"], destinations=["pacs"]).text().decode()
    journal.close()
    families = list(text_string_to_metric_families(text))
    samples = {sample.name for family in families for sample in family.samples}
    return samples | {f"{family.name}_total" if family.type == "counter" else family.name for family in families}


def test_every_metric_is_documented_and_every_documented_one_exists(tmp_path: Path) -> None:
    there = names(tmp_path)
    documented = set(re.findall(r"\b((?:onfh|process)_[a-z_]+)\b", TEXT))
    documented -= {"onfh_runtime"}
    assert documented - there == set()
    ours = {name for name in there if name.startswith("onfh_") and not name.endswith(("_created", "_sum", "_count"))}
    assert ours - documented - {"onfh_latency_seconds_bucket", "onfh_outside_engine_seconds_bucket"} == set()


def test_the_alarms_are_yaml_and_use_metrics_that_exist(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    rules = yaml.safe_load(block)["groups"][0]["rules"]
    used = {name for rule in rules for name in re.findall(r"onfh_[a-z_]+", rule["expr"])}
    assert len(rules) == 8
    assert used <= names(tmp_path)


def test_fields_it_names_exist() -> None:
    fields = {
        name for model in (ListenConfig, Disk, SeriesRule, Retry, Destination, Http) for name in model.model_fields
    }
    wanted = {"state_dir", "quiet_s", "max_wait_s", "count", "first_s", "most_s", "give_up_after_s", "address"}
    wanted |= {"refuse_below_free_bytes", "max_spool_bytes", "keep_objects_days", "keep_results_days", "peers"}
    assert {name for name in wanted if f"`{name}" not in TEXT} == set()
    assert wanted <= fields
