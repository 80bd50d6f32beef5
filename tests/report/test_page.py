"""The pages in a headless Chromium: they render, sort, filter and zoom, without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import pytest

from tests.report.test_explain import manifest_of, times_of
from tvm_insta.report.explain_page import explain_page
from tvm_insta.report.explanation import explain
from tvm_insta.report.page import Cell, document, table
from tvm_insta.report.svg import Series, steps

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

CLICKS = """
<script>
window.addEventListener('load',function(){
  var found={ready:performance.now()};
  var names=function(){return Array.from(document.querySelectorAll('#layers tbody tr'))
    .filter(function(r){return !r.hidden}).map(function(r){return r.cells[0].textContent})};
  var head=function(text){return Array.from(document.querySelectorAll('#layers th'))
    .filter(function(h){return h.textContent===text})[0]};
  found.first=names();
  head('us').click();found.up=names();
  head('us').click();found.down=names();
  head('layer').click();found.name=names();
  var input=document.querySelector('input[data-table=layers]');
  input.value='FLOAT dense';input.dispatchEvent(new Event('input'));found.filtered=names();
  var svg=document.querySelector('svg.zoom');
  found.before=svg.getAttribute('viewBox');
  svg.dispatchEvent(new WheelEvent('wheel',{deltaY:-100,clientX:300,clientY:20,cancelable:true}));
  found.zoomed=svg.getAttribute('viewBox');
  found.boxes=svg.querySelectorAll('rect').length;
  var out=document.createElement('pre');out.id='found';out.textContent=JSON.stringify(found);
  document.body.appendChild(out)});
</script>
"""


def browse(page, tmp_path, *arguments):
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"needs a browser: {', '.join(BROWSERS)}")
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * 0.0.0.0"]
    command = [
        browser,
        *flags,
        f"--user-data-dir={tmp_path / 'profile'}",
        *arguments,
        file.as_uri(),
    ]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=120, env=environment
    )
    return done.stdout


@pytest.fixture(scope="module")
def explained(profiled):
    manifest = manifest_of(profiled / "vm")
    return explain(manifest, times_of(manifest))


def test_a_click_sorts_and_a_word_filters(explained, tmp_path):
    page = explain_page(explained).replace("</body>", CLICKS + "</body>")
    said = browse(page, tmp_path, "--dump-dom")
    text = re.search(r'<pre id="found">(.*?)</pre>', said, re.DOTALL)
    assert text, said[-300:]
    found = json.loads(text[1])
    seconds = {row.name: row.timing.seconds for row in explained.layers}
    names = list(seconds)
    assert found["first"] == names
    assert found["up"] == sorted(names, key=seconds.__getitem__)
    assert found["down"] == found["up"][::-1] != found["up"]
    assert sorted(found["name"]) == sorted(names)
    dense = [row.name for row in explained.layers if (row.kind, row.op) == ("float", "dense")]
    assert found["filtered"] == dense and dense
    before, zoomed = (list(map(float, found[key].split())) for key in ("before", "zoomed"))
    assert zoomed[2] == pytest.approx(0.8 * before[2])
    assert found["boxes"] == len(explained.kernels)


def test_it_has_a_picture(explained, tmp_path):
    shot = tmp_path / "page.png"
    browse(explain_page(explained), tmp_path, f"--screenshot={shot}", "--window-size=1500,2000")
    data = shot.read_bytes()
    # A blank page of this size is a few kilobytes.
    assert data.startswith(b"\x89PNG") and len(data) > 50_000


def test_a_page_is_small_and_complete_in_itself(explained):
    page = explain_page(explained)
    assert len(page) < 500_000
    assert not re.findall(r"https?:|src=|@import|url\(|<link", page)
    for row in explained.layers:
        assert row.name in page


def test_what_users_named_is_escaped():
    rows = [[Cell("<b>&", kind='"x"')]]
    page = document("<title>", "<i>", [table("t", ["<u>"], rows)])
    assert not re.search(r"<b>|<u>|<i>|<title><", page)


def test_curves_leave_out_what_is_not_finite():
    inf = float("inf")
    plot = steps([Series("a", [1.0, inf, 0.5]), Series("b", [inf, 0.8])], x="trial", y="ratio")
    paths = re.findall(r'<path d="([^"]*)"', plot)
    assert [path.count("M") for path in paths] == [1, 1]
    assert [path.count("H") for path in paths] == [1, 0]
    assert "inf" not in plot and "nan" not in plot
    assert steps([Series("a", [inf])], x="", y="") == ""
