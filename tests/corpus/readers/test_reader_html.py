"""Web pages: what they say stays, also in short inline elements; what is around it goes."""

import time

import pytest

from src.corpus.readers import Reading, ReadReport, Slice, html, plan_parts, read_part
from src.corpus.readers.html import page_text
from src.errors import UserError

PAGE = """<html><head><title>标题</title><style>p {color: red}</style><script>var hidden = 1;</script></head>
<body class="with-sidebar"><nav><ul><li><a href="/">首页</a></li></ul></nav>
<div><a href="1">菜单一</a> | <a href="2">菜单二</a></div><div class="left sidebar"><p>广告</p></div>
<form action="/all"><div class="menus-and-more"><h1>北京的春天</h1>
<p>第二段：<b>喆</b>镕<a href="/x">生</a>先生<em>说</em>，今年的<span>雨</span>水多。</p>
<ul><li>一</li><li>二</li></ul><pre>def f():
    return 1</pre><p hidden>藏</p></div></form>
<a href="/card"><h3>相关新闻</h3><p>更多的新闻</p></a>
<footer>版权所有</footer></body></html>"""


@pytest.fixture
def resiliparse():
    return pytest.importorskip("resiliparse")


def test_the_text_of_a_page_is_its_content_without_menus_scripts_and_link_lists(resiliparse):
    text = page_text(PAGE)
    lines = [line for line in text.splitlines() if line]
    assert lines[:2] == ["北京的春天", "第二段：喆镕生先生说，今年的雨水多。"]
    assert "    return 1" in lines and "一" in lines[2]
    for gone in ("标题", "red", "hidden", "首页", "菜单", "广告", "藏", "相关", "更多", "版权", "\ufdd0", "\ufdd1"):
        assert gone not in text


def test_everything_visible_is_kept_where_asked_for(resiliparse):
    text = page_text(PAGE, main_content=False)
    assert all(kept in text for kept in ("首页", "菜单一", "广告", "喆", "版权所有"))
    assert "hidden" not in text and "red" not in text


@pytest.mark.parametrize(
    "page",
    ["<div>" * 60_000, "<a href=1>" * 3000, "<a href=x><b>" * 300, "<li><a href=1>x</a>" * 9000, "<a href" * 50_000],
    ids=lambda page: page[:14],
)
def test_hostile_pages_take_no_longer_than_others(resiliparse, page):
    start = time.process_time()
    page_text(page)
    assert time.process_time() - start < 5


def test_a_page_file_is_a_document_in_its_own_charset(resiliparse, tmp_path, read):
    (tmp_path / "a.html").write_bytes(PAGE.replace("<head>", '<head><meta charset="gbk">').encode("gbk"))
    (tmp_path / "b.htm").write_bytes(PAGE.encode("utf-16"))
    (tmp_path / "c.html").write_bytes(b"<html><body></body></html>")
    documents, report = read(*sorted(tmp_path.iterdir()))
    assert [(document.id, document.text) for document in documents] == [
        ("a.html", page_text(PAGE)),
        ("b.htm", page_text(PAGE)),
    ]
    assert (report.empty, report.replaced, report.bad) == (1, 0, {})


def test_without_the_library_the_message_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(html, "find_spec", lambda name: None)
    (tmp_path / "a.html").write_bytes(b"<p>x")
    with pytest.raises(UserError, match="resiliparse, which is not installed: pip install"):
        plan_parts([tmp_path / "a.html"], Reading())
    with pytest.raises(UserError, match="pip install"):
        list(read_part((Slice(str(tmp_path / "a.html")),), Reading(), ReadReport()))
