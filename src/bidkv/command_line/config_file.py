"""Options of a command in a TOML file: read before the command line's own, and written to repeat a run.

A key is an option's name without its dashes in front (`num-gpu-blocks = 8192`). Keys at the top of a file
are for whatever command reads it; a table named after a command (`[simulate]`) is for that command alone, and
goes before the top. What the command line states wins over both.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NoReturn, TypeVar, get_args

import typer

from bidkv._version import __version__
from bidkv.command_line.errors import print_error
from bidkv.results.files import write_output

COMMANDS = ("simulate", "plan", "tournament", "experiment")
"""The commands that read such a file, each with a table of its own name."""

_OUTPUTS = frozenset(
    ("json_file", "html_file", "png_file", "docs_file", "picture", "decision_log", "output_dir")
)
"""Options that are not written: the run that repeats another one names its own files."""

_EXPECTED: Mapping[type[Any], str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Path: "the name of a file",
}

WriteConfig = Annotated[
    Path | None,
    typer.Option(metavar="FILE.toml", help="Write every option in effect, so that --config repeats the run."),
]

_Result = TypeVar("_Result")


class ConfigError(ValueError):
    """A file that cannot be used; the message names file, line and field, what is expected and found."""


@dataclass(frozen=True, slots=True)
class ConfigScope:
    """What a program tells its command of itself, where the command's name does not say it.

    Attributes:
        command: name of its table.
        more: further names of options that it takes, which typer does not know.
        stated: values of those that the command line states.
    """

    command: str
    more: frozenset[str] = frozenset()
    stated: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stated:
    """A value of a file and the line on which it stands; 0 where that is not found."""

    value: Any
    line: int


def read_config(file: Path, command: str) -> dict[str, Stated]:
    """Return what a file states for a command, by option name with dashes.

    Raises:
        ConfigError: the file cannot be read, is no TOML, has a table of no command, or
            states an option twice.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # no text, no TOML, or a number of thousands of digits
        raise ConfigError(f"{file}: expected a TOML file: {str(error)[:120]}") from error
    lines = _find_lines(text)
    top: dict[str, Stated] = {}
    own: dict[str, Stated] = {}
    for key, value in document.items():
        if not isinstance(value, dict):
            _put(file, top, key, Stated(value, lines.get(("", key), 0)))
        elif key not in COMMANDS:
            place = _place(file, lines.get((key, ""), 0), key)
            raise ConfigError(f"{place}: expected a table out of {', '.join(COMMANDS)}, found [{key[:60]}]")
        elif key == command:
            for name, inner in value.items():
                _put(file, own, name, Stated(inner, lines.get((key, name), 0)))
    return top | own


def find_config(argv: Sequence[str]) -> Path | None:
    """Return the file that a command line names with `--config`, before anything is parsed."""
    for place, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name == "--config":
            following = argv[place + 1 : place + 2]
            return Path(value) if equals else Path(following[0]) if following else None
    return None


def _put(file: Path, found: dict[str, Stated], key: str, stated: Stated) -> None:
    name = key.replace("_", "-")
    if name in found:
        raise ConfigError(f"{_place(file, stated.line, key)}: expected each option once, found it twice")
    found[name] = stated


def _place(file: Path, line: int, key: str) -> str:
    return f"{file}, line {line}, field {key[:60]!r}" if line else f"{file}, field {key[:60]!r}"


_LINE = re.compile(r"""\s*(?:\[\s*(?P<table>[\w-]+)\s*\]|"?(?P<key>[\w-]+)"?\s*=)""")


def _find_lines(text: str) -> dict[tuple[str, str], int]:
    """Return the line of each (table, key), and of each table as (table, ""); tomllib does not tell."""
    found: dict[tuple[str, str], int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.match(line)
        if match is not None and match["table"]:
            table = match["table"]
            found.setdefault((table, ""), number)
        elif match is not None:
            found.setdefault((table, match["key"]), number)
    return found


def _scope(context: typer.Context) -> ConfigScope:
    scope = context.find_root().obj
    return scope if isinstance(scope, ConfigScope) else ConfigScope(str(context.info_name))


@dataclass(frozen=True, slots=True)
class _Option:
    """An option as its command declares it.

    Attributes:
        param: its parameter.
        names: its long names, without the dashes in front; the first one is written.
        kind: of its value: bool, int, float, str, Path, or an Enum of texts.
    """

    param: str
    names: tuple[str, ...]
    kind: type[Any]

    @classmethod
    def declared(cls, parameter: inspect.Parameter) -> _Option:
        """Return the option of a typer command's parameter."""
        given, *notes = get_args(parameter.annotation)
        kinds = [kind for kind in get_args(given) or (given,) if kind is not NoneType]
        # Within Annotated, typer keeps the first of several names where a default would stand.
        stated = [
            (getattr(note, "default", None), *(getattr(note, "param_decls", None) or ())) for note in notes
        ]
        texts = [text for note in stated for text in note if isinstance(text, str) and text[:2] == "--"]
        own = [text.partition("/")[0].removeprefix("--") for text in texts]
        return cls(parameter.name, tuple(own) or (parameter.name.replace("_", "-"),), kinds[0])

    def read(self, place: str, value: Any) -> Any:
        """Return a file's value as the option takes it; ConfigError when it is of another kind."""
        kind = self.kind
        if issubclass(kind, Enum):
            choices = [choice.value for choice in kind]
            if value not in choices:
                _refuse(place, f"one of {', '.join(choices)}", value)
            return value
        if kind is str and type(value) is list and all(type(part) in (str, int, float) for part in value):
            return ",".join(map(str, value))
        allowed = {bool: (bool,), int: (int,), float: (int, float), Path: (str,)}.get(kind, (str, int, float))
        if type(value) not in allowed:
            _refuse(place, _EXPECTED.get(kind, "text"), value)
        return str(value) if kind is str else value


def _refuse(place: str, expected: str, value: Any) -> NoReturn:
    raise ConfigError(f"{place}: expected {expected}, found {str(value)[:60]!r}")


def _check(
    options: Sequence[_Option], scope: ConfigScope, file: Path, found: Mapping[str, Stated]
) -> Iterator[tuple[str, Any]]:
    """Yield (parameter, value) of every option that a file states."""
    by_name = {name: option for option in options for name in option.names}
    for name, stated in found.items():
        place = _place(file, stated.line, name)
        option = by_name.get(name)
        if option is not None:
            yield option.param, option.read(place, stated.value)
        elif name not in scope.more:
            near = difflib.get_close_matches(name, by_name, 1)
            hint = f" (near: {near[0]})" if near else ""
            raise ConfigError(f"{place}: expected an option of {scope.command}, found no such option{hint}")


def with_config(command: Callable[..., _Result]) -> Callable[..., _Result]:
    """Return a typer command that takes `--config` and `--write-config` besides its own options."""
    own = list(inspect.signature(command).parameters.values())
    options = [_Option.declared(parameter) for parameter in own]

    def read(context: typer.Context, config: Path | None) -> Path | None:
        """Take a file's options as the defaults of those that the command line does not state."""
        if config is None:
            return None
        scope = _scope(context)
        try:
            context.default_map = dict(_check(options, scope, config, read_config(config, scope.command)))
        except ConfigError as error:
            raise typer.Exit(print_error(error)) from error
        return config

    @functools.wraps(command)
    def run(
        *, context: typer.Context, config: Path | None, write_config: Path | None, **values: Any
    ) -> _Result:
        if config is not None:
            _say_who_wins(context, config, options)
        if write_config is not None:
            _write(_scope(context), write_config, options, values)
        return command(**values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    reading = typer.Option(
        "--config",
        metavar="FILE.toml",
        is_eager=True,
        callback=read,
        help="Read options from a file; those of the command line win.",
    )
    added = [
        inspect.Parameter("context", keyword, annotation=typer.Context),
        *(each.replace(kind=keyword) for each in own),
        inspect.Parameter("config", keyword, default=None, annotation=Annotated[Path | None, reading]),
        inspect.Parameter("write_config", keyword, default=None, annotation=WriteConfig),
    ]
    run.__signature__ = inspect.Signature(added)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in added}
    del run.__wrapped__  # typer would look at the command's own arguments
    return run


def _say_who_wins(context: typer.Context, file: Path, options: Sequence[_Option]) -> None:
    stated = context.default_map or {}
    losing = [
        f"--{option.names[0]}"
        for option in options
        if option.param in stated and _is_of_command_line(context, option.param)
    ]
    winners = f"; the command line wins for {', '.join(losing)}" if losing else ""
    scope = _scope(context)
    number = len(read_config(file, scope.command))
    print(f"bidkv: {file} states {number} option{'s' * (number != 1)}{winners}", file=sys.stderr)


def _is_of_command_line(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _write(scope: ConfigScope, file: Path, options: Sequence[_Option], values: Mapping[str, Any]) -> None:
    lines = [
        f"# Every option of a run of bidkv {__version__}, but for the files that it wrote.",
        f"# From the folder it ran in, `bidkv {scope.command} --config {file.name}` repeats it.",
        f"[{scope.command}]",
    ]
    for option in options:
        value = values[option.param]
        if option.param not in _OUTPUTS and value is not None:
            lines.append(f"{option.names[0]} = {_toml(value)}")
    lines += [f"{name} = {_toml(value)}" for name, value in scope.stated.items()]
    text = "\n".join(lines) + "\n"
    tomllib.loads(text)  # what is written can be read
    try:
        write_output(file, text)
    except OSError as error:
        message = f"--write-config: {file}: {error.strerror or error}"
        raise typer.Exit(print_error(message)) from error
    except UnicodeEncodeError as error:  # a file name may hold bytes that are not text
        shown = error.object[max(error.start - 20, 0) : error.end]
        message = f"--write-config: expected values of UTF-8 text, found {shown!r}"
        raise typer.Exit(print_error(message)) from error


def _toml(value: Any) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    # A JSON text is a TOML text, but for one control character.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
