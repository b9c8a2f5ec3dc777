"""How the records of a source are turned into documents: the settings that every reader gets."""

from dataclasses import dataclass
from typing import Literal, get_args

from src.errors import UserError

Format = Literal["jsonl", "txt", "parquet", "warc", "html"]
TxtDocuments = Literal["file", "paragraph", "line"]


@dataclass(frozen=True)
class Reading:
    """Settings of one source; part of what its shards are a function of.

    text_field: JSON key or Parquet column of the text.
    id_field: key or column that names a document; without it a document is named after its place.
    txt_documents: what one document of a .txt file is: the file, a paragraph between blank lines, or a line.
    max_documents: read this many documents of the source, in the order of its files, and no more.
    format: read every file as this, whatever its name ends in; compression is still told by ``.gz`` and ``.zst``.
    encoding: of .txt files; it has to keep the bytes of ASCII, as UTF-8, GB18030 and Big5 do and UTF-16 does not.
    main_content: of a web page keep what it says, without its menus, link lists and forms; else everything visible.
    max_record_bytes: a longer record is counted as bad and never held in memory.
    folder: documents are named by their file's path below this folder, for sources whose files share names.
    """

    text_field: str = "text"
    id_field: str | None = None
    txt_documents: TxtDocuments = "file"
    max_documents: int | None = None
    format: Format | None = None
    encoding: str = "utf-8"
    main_content: bool = True
    max_record_bytes: int = 256_000_000
    folder: str | None = None

    def __post_init__(self) -> None:
        if self.txt_documents not in get_args(TxtDocuments):
            raise UserError(f"txt_documents={self.txt_documents} is none of: {', '.join(get_args(TxtDocuments))}")
        if self.format is not None and self.format not in get_args(Format):
            raise UserError(f"format={self.format} is none of: {', '.join(get_args(Format))}")
        try:
            kept = "a\n".encode(self.encoding) == b"a\n"
        except LookupError:
            kept = False
        if not kept:
            raise UserError(
                f"encoding={self.encoding} is unknown or does not keep ASCII: name one such as utf-8, gb18030 or big5"
            )
