"""The manifests of deploy/kubernetes: valid against Kubernetes' and KEDA's schemas, and consistent."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

models = pytest.importorskip("cloudcoil.models.kubernetes", reason="needs the [dev] extra")

import yaml  # noqa: E402
from cloudcoil.models.keda import v1alpha1 as keda  # noqa: E402
from cloudcoil.models.kubernetes.apps import v1 as apps  # noqa: E402
from cloudcoil.models.kubernetes.autoscaling import v2 as autoscaling  # noqa: E402
from cloudcoil.models.kubernetes.core import v1 as core  # noqa: E402
from tests.observability.test_deploy import exposition  # noqa: E402

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
MODELS: dict[tuple[str, str], Any] = {
    ("apps/v1", "Deployment"): apps.Deployment,
    ("v1", "Service"): core.Service,
    ("v1", "ConfigMap"): core.ConfigMap,
    ("autoscaling/v2", "HorizontalPodAutoscaler"): autoscaling.HorizontalPodAutoscaler,
    ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject,
}
METRIC = "bidkv_desired_replicas"


def documents() -> list[tuple[str, dict[str, Any]]]:
    """Every manifest with the name of its file."""
    return [
        (path.name, document)
        for path in sorted(FOLDER.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]


def faults(document: dict[str, Any]) -> list[str]:
    """What the schema says against a manifest: types, missing fields, and fields that it does not have."""
    model = MODELS[document["apiVersion"], document["kind"]]
    try:
        understood = model.model_validate(document).model_dump(by_alias=True, exclude_unset=True, mode="json")
    except ValueError as error:
        return [str(error)]
    return list(unknown(document, understood, document["kind"]))


def unknown(written: Any, understood: Any, place: str) -> Iterator[str]:
    """The models drop what they do not know: each field that did not come back."""
    if isinstance(written, dict):
        for name, value in written.items():
            if not isinstance(understood, dict) or name not in understood:
                yield f"{place}.{name}"
            else:
                yield from unknown(value, understood[name], f"{place}.{name}")
    elif isinstance(written, list):
        for index, value in enumerate(written):
            yield from unknown(value, understood[index], f"{place}[{index}]")


def kind(name: str) -> dict[str, Any]:
    (found,) = [document for _, document in documents() if document["kind"] == name]
    return found


@pytest.mark.parametrize(("file", "document"), documents(), ids=lambda item: str(item)[:24])
def test_manifests_follow_their_schemas(file: str, document: dict[str, Any]) -> None:
    assert faults(document) == [], file


def fields(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all fields whose names a schema fixes: those of maps of free names are left out."""
    free = {"labels", "annotations", "matchLabels", "metadata", "data", "selector", "limits"}
    if isinstance(value, dict):
        for name, child in value.items():
            yield (*path, name)
            if name not in free or (name == "metadata" and not path):
                yield from fields(child, (*path, name))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from fields(child, (*path, index))


@pytest.mark.parametrize(("file", "document"), documents(), ids=lambda item: str(item)[:24])
def test_every_misspelled_field_is_found(file: str, document: dict[str, Any]) -> None:
    tried = 0
    for path in fields(document):
        wrong = copy.deepcopy(document)
        place: Any = wrong
        for step in path[:-1]:
            place = place[step]
        if path[-1] in ("apiVersion", "kind") and len(path) == 1:
            continue
        place[f"{path[-1]}x"] = place.pop(path[-1])
        assert faults(wrong), f"{file}: {path} misspelled was not found"
        tried += 1
    assert tried >= 3


def test_both_autoscalers_scale_the_deployment_by_a_metric_that_exists() -> None:
    assert re.search(rf"^{METRIC} ", exposition(), re.MULTILINE)
    deployment, hpa, scaled = kind("Deployment"), kind("HorizontalPodAutoscaler"), kind("ScaledObject")
    name = deployment["metadata"]["name"]
    assert hpa["spec"]["scaleTargetRef"]["name"] == scaled["spec"]["scaleTargetRef"]["name"] == name
    (metric,) = hpa["spec"]["metrics"]
    assert metric["external"]["metric"]["name"] == METRIC
    (trigger,) = scaled["spec"]["triggers"]
    assert METRIC in trigger["metadata"]["query"]
    assert float(metric["external"]["target"]["averageValue"]) == float(trigger["metadata"]["threshold"]) == 1
    behavior = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior == hpa["spec"]["behavior"]
    (rule,) = yaml.safe_load(kind("ConfigMap")["data"]["config.yaml"])["externalRules"]
    assert rule["name"]["as"] == METRIC
    assert METRIC in rule["metricsQuery"]
    assert METRIC in rule["seriesQuery"]


def test_the_deployment_starts_the_plug_in_and_hands_out_its_metrics() -> None:
    pod = kind("Deployment")["spec"]["template"]
    server, proxy = pod["spec"]["containers"]
    environment = {item["name"]: item["value"] for item in server["env"]}
    assert environment["BIDKV_STRATEGY"] == "fair"
    port = environment["BIDKV_METRICS_PORT"]
    assert proxy["args"][1] == f"TCP:127.0.0.1:{port}"
    (handed,) = proxy["ports"]
    assert proxy["args"][0].startswith(f"TCP-LISTEN:{handed['containerPort']},")
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(handed["containerPort"])
    selector = kind("Deployment")["spec"]["selector"]["matchLabels"]
    assert selector.items() <= pod["metadata"]["labels"].items()
    assert kind("Service")["spec"]["selector"] == selector
