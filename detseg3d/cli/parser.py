"""The parser of the commands: flags are never guessed, and a data set is named by its position or with ``-d``."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import IO, Any

from detseg3d.cli.terminal import visible
from detseg3d.core.nnunet import answer_flag, answer_word

__all__ = ["CommandParser", "own_word"]

# Both are values: a negative number, and a number written behind a flag of one letter (-f0).
_NEGATIVE_NUMBER = re.compile(r"-\.?\d")
_NUMBER_BEHIND_FLAG = re.compile(r"(-[A-Za-z])\d.*")


class CommandParser(argparse.ArgumentParser):
    """A parser that takes a flag only in full, answers flags of nnU-Net, and writes out what a terminal would obey.

    ``allow_abbrev=False`` of the standard library holds for flags with two dashes alone: ``-c`` would be taken for
    ``-chk``, and ``-p`` for ``-pretrained_weights``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self._several_datasets: bool | None = None
        self._dataset_required = True
        self._instead: str | None = None

    def _print_message(self, message: str, file: IO[str] | None = None) -> None:  # type: ignore[override]
        super()._print_message(visible(message), file)

    def add_dataset(self, text: str, several: bool = False, required: bool = True, instead: str | None = None) -> None:
        """Add the positional argument ``DATASET`` and the flag ``-d``; the user gives one of them.

        The option ``dataset`` is a str, a list of str if there may be ``several``, or ``None`` if it is not required.

        Parameters
        ----------
        text : str
            Help for both.
        several : bool, optional
            Whether more than one data set may be named.
        required : bool, optional
            Whether a command line without a data set is an error.
        instead : str, optional
            Name of a flag, without dashes, that takes the place of the data set.
        """
        self._several_datasets, self._dataset_required, self._instead = several, required, instead
        self.add_argument(
            "dataset", nargs="*" if several else "?", metavar="DATASET", type=own_word, help=f"{text}; or use -d"
        )
        self.add_argument(
            "-d",
            "--dataset",
            dest="dataset_flag",
            nargs="+" if several else None,
            metavar="DATASET",
            help="the data set, if it is not given by its position",
        )

    def parse_args(  # type: ignore[override]  # the standard library's overloads differ in the type of namespace alone
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse a command line; an unknown flag ends the program with a message and exit code 2."""
        words = list(sys.argv[1:] if args is None else args)
        self._refuse_unknown_flags(words)
        if self._several_datasets is None:
            return super().parse_args(words, namespace)
        # Intermixed: the data set may stand before, between or behind the flags, though it need not be there.
        options = self.parse_intermixed_args(words, namespace)
        if options.dataset and options.dataset_flag:
            self.error("the data set is given twice: by its position and with -d")
        options.dataset = options.dataset or options.dataset_flag
        del options.dataset_flag
        replaced = self._instead is not None and getattr(options, self._instead) is not None
        if replaced and options.dataset:
            self.error(f"--{self._instead} takes the place of the data set: give one of them")
        if self._dataset_required and not options.dataset and not replaced:
            other = "" if self._instead is None else f", or --{self._instead}"
            self.error(f"which data set? Give DATASET or -d DATASET{other}")
        return options

    def _refuse_unknown_flags(self, words: Sequence[str]) -> None:
        for word in words:
            if word == "--":
                return
            if len(word) < 2 or not word.startswith("-") or " " in word or _NEGATIVE_NUMBER.match(word):
                continue  # a value, as the standard library sees it, too
            flag = word.split("=", 1)[0]
            with_number = _NUMBER_BEHIND_FLAG.fullmatch(word)
            known = self._option_string_actions
            if flag in known or (with_number is not None and with_number.group(1) in known):
                continue
            hints = [hint for hint in (answer_flag(flag), self._alike(flag)) if hint is not None]
            self.error("; ".join([f"unrecognized arguments: {flag}", *hints]))

    def _alike(self, flag: str) -> str | None:
        """The flag that was most probably meant."""
        known = {known.lstrip("-"): known for known in self._option_string_actions}
        name = flag.lstrip("-")
        longer = [text for text in known if len(name) > 1 and text.startswith(name)]
        found = [name] if name in known else longer or difflib.get_close_matches(name, known, 1, 0.6)
        return f"did you mean {' or '.join(known[text] for text in found[:3])}?" if found else None


def own_word(text: str) -> str:
    """Argument type: a word that is not one of nnU-Net's, such as ``3d_fullres``.

    Raises
    ------
    argparse.ArgumentTypeError
        With the line of docs/how_to/from_nnunet.md for this word.
    """
    answer = answer_word(text)
    if answer is not None:
        raise argparse.ArgumentTypeError(answer)
    return text
