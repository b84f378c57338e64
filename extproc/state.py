"""The state folder: what a host keeps by itself, apart from the store: keys, tokens, labels, observations, safety.

By default it is no folder of its own: everything stands beside the store's file and is called as that is, with an
ending. With ``--state DIR`` it stands in DIR, under the endings alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from extproc.errors import InvalidInput
from extproc.key_files import make_private_folder
from extproc.plugins import STORE, known_scheme
from extproc.urls import path_in

FLAG = "--state"


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Where each part of the state is. ``prefix`` is what all paths begin with: ``dropout.db.`` or ``DIR/``."""

    prefix: str

    @classmethod
    def of(cls, store: str, folder: Path | None) -> Self:
        """The state in ``folder``; where none is named, beside the file of the store at the URL ``store``.

        Raises:
            InvalidInput: ``state_needed`` where there is neither; ``store_url`` when that is a path alone, names
                nothing, or is of no kind of store that there is.
        """
        if folder is not None:
            return cls(f"{folder}/")
        path = path_in(store, "sqlite")
        if path is not None:
            return cls(f"{path}.")
        if store and ":" not in store:
            message = f"{store!r} is no address of a store; did you mean 'sqlite:{store}'?"
            raise InvalidInput.of("store_url", message, field="--store")
        if store in ("", "sqlite:"):
            message = (
                "no store is named; name one by --store or DROPOUT_STORE, such as sqlite:/var/lib/dropout/dropout.db"
            )
            raise InvalidInput.of("store_url", message, field="--store")
        known_scheme(STORE, store, "--store")
        message = (
            f"{store!r} is no sqlite:PATH, beside whose file keys and labels are kept; name a folder for them by "
            f"{FLAG} or DROPOUT_STATE, such as /var/lib/dropout"
        )
        raise InvalidInput.of("state_needed", message, field=FLAG)

    @classmethod
    def made(cls, store: str, folder: Path | None) -> Self:
        """As ``of``; a ``folder`` that is not there is made, for its owner alone.

        Raises:
            InvalidInput: ``state_needed``; ``state_unusable`` when it can be neither made nor written to;
                ``state_untrusted`` when somebody else could put a file of theirs there.
        """
        state = cls.of(store, folder)
        if folder is not None:
            make_private_folder(folder, "state", FLAG, "state_unusable", "state_untrusted")
        return state

    @property
    def ids(self) -> Path:
        """The keys of decision ids."""
        return self._part("ids")

    @property
    def pseudonyms(self) -> Path:
        """The key of the pseudonyms in the decision log."""
        return self._part("key")

    @property
    def token(self) -> Path:
        """What feedback has to show."""
        return self._part("token")

    @property
    def feedback(self) -> Path:
        """What labels said; SQLite."""
        return self._part("feedback")

    @property
    def observed(self) -> Path:
        """What observers counted; SQLite."""
        return self._part("observed")

    @property
    def safety(self) -> Path:
        """Kills and trips of this host."""
        return self._part("safety")

    @property
    def bundles(self) -> Path:
        """The folder of bundles that were fetched from servers."""
        return self._part("bundles")

    @property
    def serving(self) -> Path:
        """The folder with a socket of each ``serve``, for kills."""
        return self._part("serving")

    def _part(self, name: str) -> Path:
        return Path(self.prefix + name)
