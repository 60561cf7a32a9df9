"""The parser of the commands: it accepts only complete flags, and a data set by position or with ``-d``."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import IO, Any

from detseg3d.cli.terminal import escape_control_characters
from detseg3d.core.nnunet import answer_flag, answer_word

__all__ = ["CommandParser", "own_word"]

# A negative number is a value. A number directly after a flag of one letter is a value as well (-f0).
_NEGATIVE_NUMBER = re.compile(r"-\.?\d")
_NUMBER_BEHIND_FLAG = re.compile(r"(-[A-Za-z])\d.*")


class CommandParser(argparse.ArgumentParser):
    """Parser that accepts no abbreviated flags, explains flags of nnU-Net and escapes control characters.

    ``allow_abbrev=False`` of the standard library applies only to flags with two dashes. Without the check in this
    class, ``-c`` would mean ``-chk``, and ``-p`` would mean ``-pretrained_weights``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self._several_datasets: bool | None = None
        self._dataset_required = True
        self._instead: str | None = None

    def _print_message(self, message: str, file: IO[str] | None = None) -> None:  # type: ignore[override]
        super()._print_message(escape_control_characters(message), file)

    def add_dataset(self, text: str, several: bool = False, required: bool = True, instead: str | None = None) -> None:
        """Add the positional argument ``DATASET`` and the flag ``-d``. The user gives one of the two.

        The option ``dataset`` is a str, a list of str if ``several`` is True, or ``None`` if there is no data set.

        Parameters
        ----------
        text : str
            Help text of the argument and of the flag.
        several : bool, optional
            Accept more than one data set.
        required : bool, optional
            Treat a command line without a data set as an error.
        instead : str, optional
            Name of a flag, without dashes, that replaces the data set.
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
            help="data set, as an alternative to the positional argument",
        )

    def parse_args(  # type: ignore[override]  # only the type of namespace differs from the standard library
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse a command line. An unknown flag ends the program with a message and exit code 2."""
        words = list(sys.argv[1:] if args is None else args)
        self._refuse_unknown_flags(words)
        if self._several_datasets is None:
            return super().parse_args(words, namespace)
        # The optional data set may be before, between or after the flags.
        options = self.parse_intermixed_args(words, namespace)
        if options.dataset and options.dataset_flag:
            self.error("the data set is given twice: as positional argument and with -d")
        options.dataset = options.dataset or options.dataset_flag
        del options.dataset_flag
        replaced = self._instead is not None and getattr(options, self._instead) is not None
        if replaced and options.dataset:
            self.error(f"--{self._instead} replaces the data set: give only one of them")
        if self._dataset_required and not options.dataset and not replaced:
            other = "" if self._instead is None else f", or --{self._instead}"
            self.error(f"no data set is given: add DATASET or -d DATASET{other}")
        return options

    def _refuse_unknown_flags(self, words: Sequence[str]) -> None:
        for word in words:
            if word == "--":
                return
            if len(word) < 2 or not word.startswith("-") or " " in word or _NEGATIVE_NUMBER.match(word):
                continue  # a value, also for the standard library
            flag = word.split("=", 1)[0]
            with_number = _NUMBER_BEHIND_FLAG.fullmatch(word)
            known = self._option_string_actions
            if flag in known or (with_number is not None and with_number.group(1) in known):
                continue
            hints = [hint for hint in (answer_flag(flag), self._similar_flag(flag)) if hint is not None]
            self.error("; ".join([f"unrecognized arguments: {flag}", *hints]))

    def _similar_flag(self, flag: str) -> str | None:
        """Return a hint that names the most similar flags, or None if no flag is similar."""
        known = {known.lstrip("-"): known for known in self._option_string_actions}
        name = flag.lstrip("-")
        longer = [text for text in known if len(name) > 1 and text.startswith(name)]
        similar = [name] if name in known else longer or difflib.get_close_matches(name, known, 1, 0.6)
        return f"did you mean {' or '.join(known[text] for text in similar[:3])}?" if similar else None


def own_word(text: str) -> str:
    """Return a word of the command line, unless it is a word of nnU-Net such as ``3d_fullres``.

    Raises
    ------
    argparse.ArgumentTypeError
        If the word belongs to nnU-Net. The message is the entry of the word in docs/how_to/from_nnunet.md.
    """
    answer = answer_word(text)
    if answer is not None:
        raise argparse.ArgumentTypeError(answer)
    return text
