"""Print what makes a shell complete commands, options, and the groups and keys of a configuration.

eval "$(fedmed completion bash)"          # in ~/.bashrc
eval "$(fedmed completion zsh)"           # in ~/.zshrc, after compinit
fedmed completion fish | source           # in ~/.config/fish/config.fish

Nothing of fedmed is started when a word is completed: all of them are in the script.
"""

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

from fedmed.cli.arguments import new_parser
from fedmed.cli.main import COMMANDS, module_of

BASH = """_fedmed() {
    local line="${COMP_LINE:0:COMP_POINT}" current="" candidates
    local -a words
    read -ra words <<< "$line"
    if [[ "$line" != *[[:space:]] ]]; then
        current="${words[-1]}"
        unset 'words[-1]'
    fi
    if (( ${#words[@]} < 2 )); then
        candidates="COMMANDS"
    else
        case "${words[1]}" in
CASES
        esac
    fi
    COMPREPLY=($(compgen -W "$candidates" -- "$current"))
    (( ${#COMPREPLY[@]} )) || compopt -o default
    if [[ "${COMPREPLY[0]}" == *= ]]; then
        compopt -o nospace
    fi
    if [[ "$current" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then  # bash replaces what is after =
        COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*=}"}"}")
    fi
}
complete -F _fedmed fedmed"""
ZSH = """_fedmed() {
    local -a candidates
    if (( CURRENT == 2 )); then
        candidates=(COMMANDS)
    else
        case "$words[2]" in
CASES
        esac
    fi
    compadd -S '' -- ${(M)candidates:#*=}
    compadd -- ${candidates:#*=} || _files
}
compdef _fedmed fedmed"""


def parser() -> ArgumentParser:
    """Return what reads the arguments."""
    parser = new_parser("completion", __doc__)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


def main(argv: Sequence[str]) -> None:
    """Print the script."""
    shell = parser().parse_args(argv).shell
    words = {
        name: " ".join(_words_of(import_module(module_of(name)).parser())) for name in COMMANDS
    }
    overrides = " ".join(dict.fromkeys(_overrides()))
    if shell == "fish":
        print(_fish(words, overrides))
    elif shell == "zsh":
        print(_posix(ZSH, "({})", words, overrides))
    else:
        print(_posix(BASH, '"{}"', words, overrides))


def _words_of(command: ArgumentParser) -> list[str]:
    """Return the words that may stand after a command; overrides are a variable of the shell."""
    found: list[str] = []
    for action in command._actions:
        found += [option for option in action.option_strings if option.startswith("--")]
        found += map(str, action.choices or ())
        if isinstance(action.choices, dict):
            found += (word for below in action.choices.values() for word in _words_of(below))
        if action.dest == "overrides":
            found.append("$_fedmed_overrides")
    return list(dict.fromkeys(found))


def _overrides() -> Iterator[str]:
    from fedmed.cli.help import ADDED, GROUPS, choices, keys, package
    from fedmed.config import CONF

    for group in GROUPS:
        for path in choices(group):
            yield f"+{group}={path.stem}" if group in ADDED else f"{group}={path.stem}"
            if group not in ADDED:
                yield from (f"{package(path)}.{key.name}=" for key in keys(path))
    yield from (f"{key.name}=" for key in keys(CONF / "config.yaml"))


def _posix(script: str, several: str, words: Mapping[str, str], overrides: str) -> str:
    """Return a script of bash or zsh, in which several words are written as ``several`` says."""
    cases = [
        f"            {name}) candidates={several.format(known)} ;;"
        for name, known in words.items()
    ]
    script = script.replace("COMMANDS", " ".join(COMMANDS)).replace("CASES", "\n".join(cases))
    return f"_fedmed_overrides={several.format(overrides)}\n{script}"


def _fish(words: Mapping[str, str], overrides: str) -> str:
    lines = [f"set -g _fedmed_overrides {overrides}"]
    for name, meaning in COMMANDS.items():
        lines.append(f'complete -c fedmed -f -n __fish_use_subcommand -a {name} -d "{meaning}"')
    for name, known in words.items():
        seen = f"__fish_seen_subcommand_from {name}"
        lines.append(f'complete -c fedmed -n "{seen}" -a "{known}"')
    return "\n".join(lines)
