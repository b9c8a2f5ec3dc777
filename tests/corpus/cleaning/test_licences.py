"""A licence header goes, and nothing else with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.corpus.cleaning.licences import without_licence_header

MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"# Copyright (c) 2024 A. Body\n#\n# {MIT}\n\nimport os\n", "import os\n"),
        (
            "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n# Copyright A\nx\n",
            "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\nx\n",
        ),
        (f"/*\n * {MIT}\n */\n#include <stdio.h>\n", "#include <stdio.h>\n"),
        ("// SPDX-License-Identifier: MIT\n// More.\npackage main\n", "package main\n"),
        ("/* Copyright A */\n\n/* Licensed under the Apache License */\nint x;\n", "int x;\n"),
        ("<!-- Copyright A -->\n<html>\n", "<html>\n"),
        ("<?php\n/* Copyright A */\necho 1;\n", "<?php\necho 1;\n"),
        ("-- Copyright A\nlocal x\n", "local x\n"),
        ("\n\n# Copyright A\r\n\r\nx = 1\r\n", "\n\nx = 1\r\n"),
    ],
)
def test_a_comment_about_copyright_at_the_beginning_goes(text, expected):
    assert without_licence_header(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "# What this file does.\nimport os\n",
        "import os\n# Copyright A\n",
        "#include <copyright.h>\nint x;\n",
        "/* about keys */\n/* Copyright A */\n",
        '"""Checks licences."""\nx = 1\n',
        "/* Copyright without an end\nint x;\n",
        "",
    ],
)
def test_anything_else_comes_back_as_the_same_object(text):
    assert without_licence_header(text) is text


@pytest.mark.parametrize("mark", ["//", "#", "--"])
@pytest.mark.parametrize("length", [7, 80, 30_000])
def test_a_comment_too_long_for_a_licence_is_cut_at_the_end_of_a_line(mark, length):
    lines = [f"{mark} {number:05}{'x' * length}\n" for number in range(30_000 // length + 2)]
    lines.insert(0, f"{mark} Copyright A\n")
    text = "".join(lines)
    left = without_licence_header(text)
    assert any(left == "".join(lines[number:]) for number in range(len(lines)))
    assert len(left) >= len(text) - 20_000


def test_a_licence_that_ends_where_the_file_ends_goes():
    assert without_licence_header("// Copyright A") == ""


@given(st.lists(st.sampled_from(["# Copyright A\n", "// x\n", "/* © */\n", "\n", "x\n", "/*", "#", " "])).map("".join))
def test_what_is_left_has_no_header_any_more(text):
    once = without_licence_header(text)
    assert without_licence_header(once) is once
    assert text.endswith(once.lstrip("\n ") or "")
