"""The bytes that an entry of a vocabulary stands for."""

from __future__ import annotations


def _alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level vocabularies (GPT-2's `bytes_to_unicode`)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    table = {chr(byte): byte for byte in shown}
    return table | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


BYTES = _alphabet()


def spell(piece: str | bytes | None, *, in_bytes: bool) -> bytes:
    """The bytes of one entry: of a byte-level vocabulary, or of SentencePiece's."""
    if piece is None:
        return b""
    if isinstance(piece, bytes):
        return piece
    if in_bytes:
        return bytes(BYTES[character] for character in piece)
    if len(piece) == len("<0x00>") and piece.startswith("<0x") and piece.endswith(">"):
        return bytes.fromhex(piece[3:5])
    return piece.replace("\u2581", " ").encode()
