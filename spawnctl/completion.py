"""What completes ``spawnctl`` in a shell: a script for bash and one for zsh, both made of the usage text.

Commands are offered as the first word only. An option is offered where the usage text has it, until it, or one that it
does not go with, has been given; its value is a file, a directory, one of the words in its help, or anybody's guess.

Invariant: only the standard library is imported (see ``text``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from spawnctl import text
from spawnctl.text import Command, Option

FILES = ("--config", "--log-file")
DIRECTORIES = ("--state-dir",)
CHOICES = ("--log-level",)  # whose help is the list of its values

# Bash makes several words of --flag=value and of values with a colon, and says no more about it.
BASH = r"""# What completes spawnctl in bash. Made by "spawnctl completion bash".

_spawnctl() {
    local options='@SHARED@'
    local current=${COMP_WORDS[COMP_CWORD]} command='' value_of='' prefix='' left='' open='' word i
    local -a gone=()
    for ((i = 1; i < ${#COMP_WORDS[@]}; i++)); do
        word=${COMP_WORDS[i]}
        if ((i == COMP_CWORD)); then
            [[ $word == -* ]] || value_of=$open
            open=''
        elif [[ $word == -* ]]; then
            open=''
            case $word in
                @VALUED@) open=$word ;;
            esac
            case ${word%%=*} in
@GONE@
            esac
        elif [[ $word =~ ^[=:]+$ ]]; then
            open=${open:-:}
        elif [[ -n $open ]]; then
            open=''
        elif ((i < COMP_CWORD)); then
            command+=${command:+ }$word
        fi
    done
    if [[ $current =~ ^[=:]+$ ]]; then
        current=''
    elif [[ $current == --*=* ]]; then
        value_of=${current%%=*} prefix=${current%%=*}= current=${current#*=}
    fi

    case $value_of in
        @FILES@)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -P "$prefix" -f -- "$current") ;;
        @DIRECTORIES@)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -P "$prefix" -d -- "$current") ;;
@CHOICES@
        ?*)
            COMPREPLY=() ;;
        '')
            case $command in
@COMMANDS@
                '')
                    left="@FOREGROUND@"
                    ((COMP_CWORD == 1)) && [[ $current != -* ]] && left='@NAMES@' ;;
            esac
            left=" $left "
            for word in "${gone[@]}"; do
                left=${left/ $word / }
                left=${left/ $word= / }
            done
            mapfile -t COMPREPLY < <(compgen -W "$left" -- "$current")
            [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null ;;
    esac
    return 0
}

complete -F _spawnctl spawnctl
"""

# The last lines: a file of this name in $fpath is run as the function's body, but it may as well be sourced.
ZSH = r"""#compdef spawnctl
# What completes spawnctl in zsh. Made by "spawnctl completion zsh".

_spawnctl() {
    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
        local -a commands=(
@COMMANDS@
        )
        _describe -t commands command commands
        return
    fi
    local -a options=(
@SHARED@
    )
    local name=''
    if [[ $words[2] != -* ]]; then
        name=$words[2]
        shift words
        (( CURRENT-- ))
    fi
    case $name in
@CASES@
    esac
}

compdef _spawnctl spawnctl
if [[ $funcstack[1] == _spawnctl ]]; then
    _spawnctl "$@"
fi
"""


def script(shell: str) -> str:
    """The script for a shell, one of ``spawnctl completion``'s words."""
    return {"bash": bash, "zsh": zsh}[shell]()


def choices(option: Option) -> list[str]:
    """The values that the help of an option is a list of."""
    return re.findall(r"\w+", option.help.replace(" or ", " ")) if option.flag in CHOICES else []


def bash() -> str:
    valued = [option for option in text.OPTIONS if option.value]
    parts = {
        "VALUED": " | ".join(option.flag for option in valued),
        "GONE": _lines(16, (_bash_gone(option) for option in text.OPTIONS)),
        "FILES": " | ".join(FILES),
        "DIRECTORIES": " | ".join(DIRECTORIES),
        "CHOICES": _lines(8, (_bash_choice(option) for option in text.OPTIONS if choices(option))),
        "COMMANDS": _lines(16, (f'{one.name}) left="{_bash_words(one)}" ;;' for one in text.COMMANDS.values())),
        "SHARED": " ".join(_bash_flag(option) for option in text.OPTIONS if option.flag in text.SHARED),
        "FOREGROUND": _bash_words(text.FOREGROUND),
        "NAMES": " ".join(text.COMMANDS),
    }
    return _filled(BASH, parts)


def _bash_words(command: Command) -> str:
    """What may follow a command, where ``$options`` are those that several take."""
    flags = [_bash_flag(option) for option in _options(command)]
    shared = ["$options"] if set(text.SHARED) & set(command.flags) else []
    return " ".join((*command.words, *flags, *shared))


def _bash_flag(option: Option) -> str:
    return option.flag + "=" * bool(option.value)


def _bash_gone(option: Option) -> str:
    spellings = " | ".join(filter(None, (option.short, option.flag)))
    return f"{spellings}) gone+=({' '.join(text.excluded_by(option.flag))}) ;;"


def _bash_choice(option: Option) -> str:
    words = " ".join(choices(option))
    return f"""{option.flag}) mapfile -t COMPREPLY < <(compgen -P "$prefix" -W '{words}' -- "$current") ;;"""


def zsh() -> str:
    commands = (_quoted(f"{one.name}:{_escaped(one.help, ':')}") for one in text.COMMANDS.values())
    cases = "\n".join(_zsh_case(one) for one in (*text.COMMANDS.values(), text.FOREGROUND))
    shared = (_zsh_option(option) for option in text.OPTIONS if option.flag in text.SHARED)
    return _filled(ZSH, {"COMMANDS": _lines(12, commands), "SHARED": _lines(8, shared), "CASES": cases})


def _zsh_case(command: Command) -> str:
    specs = [_zsh_option(option) for option in _options(command)]
    if set(text.SHARED) & set(command.flags):
        specs.append("$options")
    if command.words:
        specs.append(_quoted(f"1:{command.name}:({' '.join(command.words)})"))
    if not specs:
        return f"        {command.name}) _message 'no more arguments' ;;"
    head = f"        {command.name or _quoted('')})\n            _arguments"
    return " \\\n                ".join((head, *specs)) + " ;;"


def _zsh_option(option: Option) -> str:
    short = {one.flag: one.short for one in text.OPTIONS}
    excluded = [name for flag in text.excluded_by(option.flag) for name in (short[flag], flag) if name]
    rest = f"[{_escaped(option.help, '[]:')}]"
    if option.value:
        rest += f":{option.value.lower()}:{_zsh_value(option)}"
    spellings = [name + "=" * bool(option.value) for name in (option.short, option.flag) if name]
    return " ".join(_quoted(f"({' '.join(excluded)}){name}{rest}") for name in spellings)


def _zsh_value(option: Option) -> str:
    if option.flag in FILES:
        return "_files"
    if option.flag in DIRECTORIES:
        return "_files -/"
    return f"({' '.join(choices(option))})" if choices(option) else " "


def _options(command: Command) -> list[Option]:
    """The options that a command has beyond those that several take."""
    return [option for option in text.OPTIONS if option.flag in command.flags and option.flag not in text.SHARED]


def _escaped(words: str, special: str) -> str:
    return "".join("\\" + letter if letter in "\\" + special else letter for letter in words)


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def _lines(indent: int, lines: Iterable[str]) -> str:
    return "\n".join(" " * indent + line for line in lines)


def _filled(template: str, parts: dict[str, str]) -> str:
    for name, part in parts.items():
        template = template.replace(f"@{name}@", part)
    return template
