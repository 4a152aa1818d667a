"""What can be wrong with encoded bytes, named by what is to blame.

Every error here is a `CodecError`, so that a reader can treat "these bytes are no batch" as one case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .batch import BatchHeader


class CodecError(ValueError):
    """The bytes are not what the format says, or what was to be encoded does not fit the format.

    `header` is the batch's header if that one was sound, so that damage behind it still has a name
    (group, index, term); else None.
    """

    def __init__(self, detail: str, header: BatchHeader | None = None) -> None:
        if header is not None:
            detail = f"{detail} (group {header.group}, index {header.index}, term {header.term})"
        super().__init__(detail)
        self.header = header


class ShortBuffer(CodecError):
    """The buffer ends before the bytes that its fields announce."""


class BadMagic(CodecError):
    """The bytes do not begin like a batch: this was never one, or its first bytes are damaged."""


class NewerVersion(CodecError):
    """A sound header speaks of a version, kind or flag that this program does not know."""


class HeaderDamaged(CodecError):
    """The header's checksum does not match: nothing in it can be believed, not even its length."""


class PayloadDamaged(CodecError):
    """The header is sound and the payload's checksum does not match: `header` says what was lost."""


class BadLength(CodecError):
    """The length fields contradict each other or the size of what they describe."""


class BadTable(CodecError):
    """The table contradicts the entries: lengths, a type of 0, no entry at all, or padding that is not 0."""


class BadField(CodecError):
    """A field has a value that no version allows: out of range, kind 0, a reserved field that is not 0."""


class EntryTooLarge(CodecError):
    """One entry alone is larger than any batch can be."""


class BatchFull(CodecError):
    """Together the entries exceed one batch: 65,535 of them, or its 32-bit length."""
