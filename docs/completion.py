"""Completion for bash, of a command's parser.  The script runs nothing but bash itself."""

import argparse

TEMPLATE = """\
# Completion of @COMMAND@ for bash; made of the command's own options.
@FUNCTION@() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} root=/dev/shm i path REPLY
    COMPREPLY=()
    # bash takes --option=value for three words.
    if [[ $word == = ]]; then
        word=''
    elif [[ $before == = && $COMP_CWORD -ge 2 ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${COMP_WORDS[i]} == --root ]]; then
            root=${COMP_WORDS[i + 1]}
            [[ $root != = ]] || root=${COMP_WORDS[i + 2]}
            [[ $root != \\~/* ]] || root=$HOME${root:1}
            @FUNCTION@_unquoted "$root"
            root=$REPLY
        fi
    done
    case $before in
@VALUES@    esac
    if [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W '@OPTIONS@' -- "$word")
        return
    fi
@NAMES@}
@UNQUOTED@complete -F @FUNCTION@ @COMMAND@
"""

UNQUOTED = """\

# In REPLY the word as it was meant: quotes, which may be open still, are taken away, and nothing is expanded.
@FUNCTION@_unquoted() {
    local i letter quote=''
    REPLY=''
    for ((i = 0; i < ${#1}; i++)); do
        letter=${1:i:1}
        if [[ $letter == \\\\ && $quote != \\' ]]; then
            ((++i))
            REPLY+=${1:i:1}
        elif [[ -n $quote && $letter == "$quote" ]]; then
            quote=''
        elif [[ -z $quote && ( $letter == \\' || $letter == '"' ) ]]; then
            quote=$letter
        else
            REPLY+=$letter
        fi
    done
}
"""

CHOICE = """\
        {options})
            mapfile -t COMPREPLY < <(compgen -W '{choices}' -- "$word")
            return
            ;;
"""
PATH = """\
        {options})
            mapfile -t COMPREPLY < <(compgen -{kind} -- "$word")
            compopt -o filenames 2>/dev/null
            return
            ;;
"""
HEAP = """\
        {options}) ;; # a heap's name, as below
"""
ANYTHING = """\
        {options}) return ;; # anything
"""
NAMES = """\
    @FUNCTION@_unquoted "$word"
    for path in "$root/$REPLY"*; do
        [[ ! -f $path ]] || COMPREPLY+=("${path#"$root/"}")
    done
    compopt -o filenames 2>/dev/null
"""


def script(parser):
    """What bash is to read for the command that `parser` parses for."""
    values, words = [], []
    for action in parser._actions:
        if action.help is argparse.SUPPRESS or not action.option_strings:
            continue
        words += action.option_strings
        if action.nargs == 0:
            continue
        options = " | ".join(action.option_strings)
        if action.choices:
            values.append(CHOICE.format(options=options, choices=" ".join(action.choices)))
        elif action.metavar in ("DIR", "FILE"):
            kind = "d" if action.metavar == "DIR" else "f"
            values.append(PATH.format(options=options, kind=kind))
        else:
            values.append(
                (HEAP if action.metavar == "NAME" and takes_names(parser) else ANYTHING).format(
                    options=options
                )
            )
    text = TEMPLATE.replace("@VALUES@", "".join(values)).replace("@OPTIONS@", " ".join(words))
    text = text.replace("@NAMES@", NAMES if takes_names(parser) else "")
    text = text.replace("@UNQUOTED@", UNQUOTED)
    return text.replace("@FUNCTION@", "_" + parser.prog.replace("-", "_")).replace("@COMMAND@", parser.prog)


def takes_names(parser):
    """Whether the command takes names of heaps, by its usage."""
    return "NAME" in parser.usage
