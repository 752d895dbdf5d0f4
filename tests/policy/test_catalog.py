from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from bidkv.policy import PolicySpecError, available, catalog, policy_options, register, resolve, resolve_all
from bidkv.policy.contract_strategies import StaticRandom
from bidkv.protocol.policy import Policy


@pytest.fixture
def tunable(monkeypatch: pytest.MonkeyPatch) -> type[Policy]:
    """A policy with an option of every kind, registered for one test."""
    monkeypatch.setattr(catalog, "_CATALOG", dict(catalog._CATALOG))

    @register
    class Tunable(Policy):
        name = "tunable"

        def __init__(
            self,
            *,
            count: int = 3,
            share: float = 0.5,
            label: str = "a",
            strict: bool = False,
            cap: int | None = 8,
        ) -> None:
            if count < 0:
                raise ValueError(f"count must be >= 0, got {count}")
            self.given = (count, share, label, strict, cap)

    return Tunable


def test_every_policy_resolves_by_its_name_to_a_fresh_object() -> None:
    assert {"preempt-evict", "preempt-evict-sjf", "static-random", "largest-first", "bidkv", "lcf"} <= set(
        available()
    )
    assert available() == sorted(available())
    for name in available():
        assert resolve(name).name == name
        assert resolve(name) is not resolve(name)


def test_options_of_every_kind_are_parsed(tunable: type[Policy]) -> None:
    assert policy_options("tunable") == {"count": 3, "share": 0.5, "label": "a", "strict": False, "cap": 8}
    policy: Any = resolve(" tunable : count = 4 ; share=.25; label=x y;strict=TRUE;cap=none ")
    assert policy.given == (4, 0.25, "x y", True, None)
    policy = resolve("tunable:cap=2")
    assert policy.given == (3, 0.5, "a", False, 2)


def test_a_seed_in_the_text_is_a_seed() -> None:
    policy = resolve("static-random:seed=7")
    assert isinstance(policy, StaticRandom)
    assert policy._random.random() == StaticRandom(seed=7)._random.random()


def test_a_list_is_split_at_commas() -> None:
    assert [p.name for p in resolve_all("lcf, static-random:seed=3, bidkv")] == [
        "lcf",
        "static-random",
        "bidkv",
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nope", "policy 'nope' does not exist. Available: "),
        ("", "policy '' does not exist. Available: "),
        (":seed=1", "policy '' does not exist. Available: "),
        ("LCF", "policy 'LCF' does not exist. Available: "),
        ("lcf:cap=3", "policy 'lcf' has no option 'cap=3'; options (with defaults): none"),
        ("static-random:sed=3", "has no option 'sed=3'; options (with defaults): seed=0"),
        ("static-random:seed", "has no option 'seed'; options (with defaults): seed=0"),
        ("static-random:seed=x", "policy 'static-random': option 'seed' must be an integer, got 'x'"),
        ("static-random:seed=", "policy 'static-random': option 'seed' must be an integer, got ''"),
        ("static-random:seed=1;seed=2", "policy 'static-random': option 'seed' is given twice"),
        ("tunable:share=abc", "option 'share' must be a finite number, got 'abc'"),
        ("tunable:share=nan", "option 'share' must be a finite number, got 'nan'"),
        ("tunable:share=-inf", "option 'share' must be a finite number, got '-inf'"),
        ("tunable:strict=yes", "option 'strict' must be true or false, got 'yes'"),
        ("tunable:cap=many", "option 'cap' must be an integer or none, got 'many'"),
        ("tunable:count=-1", "policy 'tunable': count must be >= 0, got -1"),
    ],
)
def test_a_bad_text_is_an_error_that_lists_what_exists(
    tunable: type[Policy], spec: str, message: str
) -> None:
    with pytest.raises(PolicySpecError) as error:
        resolve(spec)
    assert message in str(error.value)
    if "does not exist" in message:
        assert all(name in str(error.value) for name in available())


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("", "none"),
        (" , ,", "an empty one in ' , ,'"),
        ("fair,,lcf", "an empty one"),
        ("fair,", "an empty one"),
    ],
)
def test_a_list_with_an_empty_name_is_an_error(spec: str, found: str) -> None:
    with pytest.raises(PolicySpecError, match=rf"found {found}.*Available: "):
        resolve_all(spec)


@pytest.mark.parametrize("spec", ["fair:", "fair: ", "lcf:", "fair:passes=8;", "fair:;passes=8"])
def test_a_colon_without_an_option_is_an_error(spec: str) -> None:
    with pytest.raises(PolicySpecError, match="expected key=value;key=value after the ':', found '"):
        resolve(spec)


def test_a_name_is_registered_once() -> None:
    class Second(Policy):
        name = "lcf"

    with pytest.raises(ValueError, match="Policy 'lcf' already registered"):
        register(Second)


@pytest.mark.parametrize("name", ["", "a:b", "a;b", "a,b", "a=b", "a b", "a\n", 3])
def test_a_name_must_survive_its_own_syntax(name: object) -> None:
    unusable = type("Unusable", (Policy,), {"name": name})
    with pytest.raises(ValueError, match="must be a non-empty text without"):
        register(unusable)
    assert name not in available()


def test_only_policies_are_registered() -> None:
    class Impostor:
        name = "impostor"

    for what in (Impostor, Impostor(), 3):
        with pytest.raises(ValueError, match="expected a subclass of bidkv"):
            register(what)  # type: ignore[arg-type]
    assert "impostor" not in available()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("needy", "policy 'needy' cannot be made: TypeError"),
        ("plain:cap=4", "policy 'plain': option 'cap' cannot be given as text: its annotation in __init__"),
        ("lost:cap=4", "policy 'lost': annotations of __init__: name 'Absent' is not defined"),
    ],
)
def test_a_policy_of_another_package_that_cannot_be_made_is_an_error_of_its_text(
    spec: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Needy(Policy):
        name = "needy"

        def __init__(self, cap: int) -> None:
            self.cap = cap

    class Plain(Policy):
        name = "plain"

        def __init__(self, *, cap=3):  # type: ignore[no-untyped-def]
            self.cap = cap

    class Lost(Policy):
        name = "lost"

        def __init__(self, *, cap: Absent = 3) -> None:  # type: ignore[name-defined]  # noqa: F821
            self.cap = cap

    for policy in (Needy, Plain, Lost):
        monkeypatch.setitem(catalog._CATALOG, policy.name, policy)
    with pytest.raises(ValueError, match=r"^policy '") as error:
        resolve(spec)
    assert message in str(error.value)


def test_another_package_adds_policies_through_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "foreign_policies.py").write_text(
        "from bidkv.policy import register\n"
        "from bidkv.protocol.policy import Policy\n"
        "class Foreign(Policy):\n"
        "    name = 'foreign'\n"
        "@register\n"
        "class Decorated(Policy):\n"
        "    name = 'decorated'\n"
        "class Clash(Policy):\n"
        "    name = 'lcf'\n"
    )
    info = tmp_path / "foreign-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[bidkv.policies]\n"
        "foreign = foreign_policies:Foreign\n"
        "decorated = foreign_policies:Decorated\n"
        "clash = foreign_policies:Clash\n"
        "broken = foreign_policies:Missing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(catalog, "_CATALOG", dict(catalog._CATALOG))
    monkeypatch.setattr(catalog, "_discover", functools.cache(catalog._discover.__wrapped__))
    assert resolve("foreign").name == "foreign"
    assert {"foreign", "decorated"} <= set(available())
    assert type(resolve("lcf")).__module__.startswith("bidkv.")
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert any("clash" in text and "already registered" in text for text in warnings)
    assert any("broken" in text for text in warnings)


def test_every_policy_that_chooses_victims_says_by_what() -> None:
    for name in available():
        policy = resolve(name)
        assert bool(policy.victim_rule) is policy.chooses_victims, name


def test_names_are_hyphenated_and_the_older_underscores_are_read() -> None:
    assert not [name for name in available() if "_" in name]
    assert resolve("sglang_default").name == "sglang-default"
    assert resolve("slack_aware").name == "slack-aware"
    assert resolve("on_time:ttft_slo_s=3").name == "on-time"
    assert policy_options("on_time") == policy_options("on-time")


def test_a_second_spelling_of_a_taken_name_is_refused() -> None:
    class Twin(Policy):
        name = "on_time"

    with pytest.raises(ValueError, match="Policy 'on_time' already registered"):
        register(Twin)


def test_options_of_an_unknown_policy_are_an_error() -> None:
    with pytest.raises(PolicySpecError, match="policy 'nope' does not exist"):
        policy_options("nope")
