"""Small real tournaments: pairing, resuming, and what is handed out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bidkv.policy import available
from bidkv.policy.published import RULE_POLICIES
from bidkv.tournament import (
    BASELINE,
    Standings,
    TournamentCell,
    cells,
    evaluate,
    fingerprints,
    picture,
    store,
)
from bidkv.tournament.docs import policy_table, regenerate, regenerate_policies, require_markers
from bidkv.tournament.picture import rows, write_picture

SMALL = {"families": ["mixed"], "sizes": ["T"], "loads": [1.1], "seeds": [1, 2], "requests": 120}


@pytest.fixture(scope="module")
def standings() -> Standings:
    return evaluate(["lcf", "peak-gate"], **SMALL)  # type: ignore[arg-type]


def test_all_policies_run_the_same_cells(standings: Standings) -> None:
    assert list(standings.scores) == [
        TournamentCell("T", "mixed", 1.1, 1),
        TournamentCell("T", "mixed", 1.1, 2),
    ]
    for scores in standings.scores.values():
        assert list(scores) == [BASELINE, "lcf", "peak-gate"]
        assert scores[BASELINE].preemptions > 0
        assert scores["lcf"] != scores[BASELINE]
        assert scores["peak-gate"].failures == 0
    # Each seed: saturation once, then three policies at one load.
    assert standings.simulated_requests == 2 * 120 * (1 + 3)
    baseline = standings.ratio(BASELINE, "mean_e2e_s")
    assert (baseline.value, baseline.low, baseline.high) == (1.0, 1.0, 1.0)


def test_an_infinite_load_has_all_queued_and_the_json_says_so() -> None:
    result = evaluate(["lcf"], **{**SMALL, "loads": [math.inf]})  # type: ignore[arg-type]
    document = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert document["plan"]["loads"] == ["inf"]
    assert {cell["load"] for cell in document["cells"]} == {"inf"}
    for cell in document["cells"]:
        # Of requests that all arrive at 0 s, the last one's latency is the whole run.
        score = cell["scores"][BASELINE]
        assert score["p99_e2e_s"] <= 120 / score["throughput_rps"] * 1.0001
        assert score["mean_ttft_s"] <= score["p99_ttft_s"] <= score["longest_wait_s"]


def test_a_machine_has_step_times_of_its_own(standings: Standings) -> None:
    other = evaluate(["lcf"], **SMALL, profile="l40s-8b")  # type: ignore[arg-type]
    for cell, scores in standings.scores.items():
        assert other.scores[cell]["lcf"].mean_e2e_s > scores["lcf"].mean_e2e_s


def test_processes_change_nothing(standings: Standings) -> None:
    again = evaluate(["lcf", "peak-gate"], **SMALL, jobs=2)  # type: ignore[arg-type]
    assert again.scores == standings.scores


def test_a_second_call_runs_only_what_is_missing(standings: Standings, tmp_path: Path) -> None:
    def simulated(policies: list[str], **changes: object) -> int:
        result = evaluate(policies, **{**SMALL, **changes}, output_dir=tmp_path)  # type: ignore[arg-type]
        if not changes:
            assert result.scores == {
                cell: {policy: scores[policy] for policy in result.plan.policies}
                for cell, scores in standings.scores.items()
            }
        return result.simulated_requests

    assert simulated(["lcf"]) == 2 * 120 * 3
    assert simulated(["lcf"]) == 0
    assert simulated(["lcf", "peak-gate"]) == 2 * 120
    assert simulated(["lcf"], loads=[1.1, 0.8]) == 2 * 120 * 2
    assert simulated(["lcf", "peak-gate"]) == 0
    assert simulated(["lcf"], requests=60) == 2 * 60 * 3
    assert not list(tmp_path.rglob("*.part"))
    assert {file.name for file in tmp_path.rglob("*.json")} == {"mixed-1.json", "mixed-2.json"}


def test_scores_of_other_code_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def simulated() -> int:
        return evaluate(["lcf"], **SMALL, output_dir=tmp_path).simulated_requests  # type: ignore[arg-type]

    assert simulated() == 2 * 120 * 3
    real = store.policy_fingerprint
    monkeypatch.setattr(store, "policy_fingerprint", lambda spec: "new" if spec == "lcf" else real(spec))
    assert simulated() == 2 * 120  # the changed policy alone
    monkeypatch.setattr(cells, "engine_fingerprint", lambda: "other")
    assert simulated() == 2 * 120 * 3
    assert simulated() == 0


def test_a_policys_fingerprint_covers_what_it_imports_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def covered(spec: str) -> set[str]:
        digested: list[set[Path]] = []
        monkeypatch.setattr(fingerprints, "_digest", lambda files: digested.append(files) or "")
        fingerprints.policy_fingerprint.__wrapped__(spec)
        return {file.name for file in digested[0]}

    gate = covered("peak-gate")
    assert {"clairvoyant.py", "future_memory.py", "ordering.py"} <= gate
    assert not gate & {"past_future.py", "fair.py", "catalog.py"}
    assert {"fair.py", "reserve.py", "prices.py"} <= covered("fair:cap=3")
    assert "future_memory.py" not in covered("fair")


def test_the_engines_fingerprint_covers_files_that_exist() -> None:
    assert all((fingerprints._ROOT / name).exists() for name in fingerprints._ENGINE)
    assert len(fingerprints.engine_fingerprint()) == len(fingerprints.policy_fingerprint("lcf")) == 16


def test_the_json_is_complete(standings: Standings) -> None:
    document = json.loads(json.dumps(standings.as_dict(), allow_nan=False))
    assert document["baseline"] == BASELINE
    assert set(document["policies"]) == {BASELINE, "lcf", "peak-gate"}
    assert [(entry["size"], entry["load"]) for entry in document["policies"]["lcf"]] == [
        ("T", None),
        ("T", 1.1),
    ]
    assert document["cells"][0]["scores"]["lcf"]["mean_e2e_s"] > 0


def test_the_picture_joins_the_best_and_leaves_clairvoyant_ones_out(
    standings: Standings, tmp_path: Path
) -> None:
    table = [row for row in rows(standings) if row["against"] == "p99 latency"]
    by_policy = {row["policy"]: row for row in table}
    assert by_policy["peak-gate"]["clairvoyant"]
    assert not by_policy["peak-gate"]["best"]
    assert by_policy["lcf"]["best"] or by_policy[BASELINE]["best"]
    page, image = tmp_path / "pareto.html", tmp_path / "pareto.png"
    write_picture(page, standings)
    write_picture(image, standings)
    text = page.read_text()
    assert "peak-gate" in text
    assert "<script src=" not in text
    assert image.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"ends in \.html or \.png"):
        write_picture(tmp_path / "pareto.gif", standings)


def test_who_would_press_all_others_together_is_named_and_not_drawn(
    standings: Standings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn() -> set[str]:
        text = json.dumps(picture.pareto_chart(standings).to_dict())
        return {policy for policy in standings.plan.policies if f'"policy": "{policy}"' in text}

    assert drawn() == set(standings.plan.policies)
    assert picture.pareto_chart(standings).to_dict()["title"]["subtitle"] == ""
    monkeypatch.setattr(picture, "_FURTHEST", 1.0)
    far = {row["policy"] for row in rows(standings) if max(row["mean"], row["ratio"]) > 1.0}
    assert far
    assert drawn() < set(standings.plan.policies)
    subtitle = picture.pareto_chart(standings).to_dict()["title"]["subtitle"]
    assert subtitle == f"Where more than 1 times as high, not drawn: {', '.join(sorted(far))}"


def test_the_docs_are_regenerated_between_their_markers(standings: Standings, tmp_path: Path) -> None:
    file = tmp_path / "policies.md"
    file.write_text(
        "Before\n<!-- policies: begin -->\nstale words\n<!-- policies: end -->\nBetween\n"
        "<!-- standings: begin -->\nstale words\n<!-- standings: end -->\nAfter\n"
    )
    regenerate(file, standings, "bidkv tournament --size T")
    regenerate_policies(file)
    text = file.read_text()
    assert "stale words" not in text
    assert all(word in text for word in ("Before\n", "\nBetween\n", "\nAfter\n"))
    assert "`bidkv tournament --size T`" in text
    assert text.count("| lcf |") == 1
    regenerate(file, standings, "bidkv tournament --size T")
    assert file.read_text() == text


def test_a_file_without_markers_is_refused_before_the_run(tmp_path: Path) -> None:
    file = tmp_path / "policies.md"
    file.write_text("<!-- policies: begin --><!-- policies: end --><!-- standings: begin -->")
    with pytest.raises(ValueError, match="expected a line <!-- standings: end -->"):
        require_markers(file)


def test_the_projects_own_docs_have_the_markers() -> None:
    docs = Path(__file__).parents[2] / "docs"
    require_markers(docs / "results" / "single-requests.md")
    shown = (docs / "reference" / "policies.md").read_text(encoding="utf-8")
    assert policy_table() in shown, "run: python -m bidkv.tournament.docs docs/reference/policies.md"


def test_the_table_of_policies_names_everybody_and_every_published_rules_source() -> None:
    lines = {line.split("`")[1]: line.split(" | ") for line in policy_table().splitlines()[2:]}
    assert set(lines) == set(available())
    for rule in RULE_POLICIES:
        cells = lines[str(rule.name)]
        assert cells[2] == ("true lengths" if rule.clairvoyant else "what a server sees")
        assert len(cells[3]) > len(" |")
