"""Annotated files of many forms as `Sample`s: ``read_samples(path)``.

- ``columns``: CoNLL files, a token and its tag a line (BIO, IOB, BIOES, BMES, BILOU); CrossNER's release too
- ``sample``: IEPile's records ``{text, entity | relation | event}``; InstructIE's, which add ``cate``
- ``iepile_train``, ``iepile_test``: converted records, whose instruction is a JSON object; InstructIE's ``*_ins`` files
- ``knowlm_ie``: KnowLM-IE's and CCKS-2023's ``{instruction, input, output | relation | kg | entity, cate}``
- ``cluener``, ``duie``, ``duee``: the release layouts of CLUENER, DuIE 2.0, DuEE and DuEE-fin
- ``spert``: tokens with entities and relations by token, as CoNLL04, SciERC and ADE circulate (Eberts and Ulges 2020)

Each row becomes a sample with offsets or is rejected with its line and a reason; none is dropped in silence.
"""

from src.extraction.readers.read import FORMATS, detect_format, read_samples
from src.extraction.readers.rejects import Rejects

__all__ = ["FORMATS", "Rejects", "detect_format", "read_samples"]
