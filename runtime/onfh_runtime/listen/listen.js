"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  if (byId("token")) { // the page that asks for the token
    byId("wrong").hidden = location.search !== "?wrong";
    return;
  }

  const EVERY_MS = 2000;
  const SLOWEST_MS = 30000;
  const PATIENCE_MS = 10000;
  const NOTHING = "\u2013";
  const STATES = { receiving: "receiving", ready: "waiting", working: "analysing", answered: "answered", set_aside: "set aside" };
  const COUNTS = [
    ["receiving", "receiving"], ["ready", "waiting"], ["working", "analysing"], ["answered", "answered"],
    ["set_aside", "set aside", true], ["deadline_missed", "deadlines missed", true],
    ["deliveries_pending", "to be sent"], ["deliveries_dead", "sending given up", true],
  ];
  const rows = new Map(); // series UID -> its table row
  const studies = new Map(); // study UID -> its group of rows
  let paused = false;
  let failures = 0;
  let timer = 0;
  let good = null; // when the node last answered

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const end = (uid) => (uid.length > 10 ? `\u2026${uid.slice(-8)}` : uid);
  const words = (code) => code.replaceAll("_", " ");
  const seconds = (ms) => (ms < 9950 ? `${(ms / 1000).toFixed(1)} s` : span(ms / 1000));
  const span = (s) => {
    const whole = Math.max(0, Math.round(s));
    if (whole < 120) return `${whole} s`;
    if (whole < 7200) return `${Math.round(whole / 60)} min`;
    return whole < 172800 ? `${Math.round(whole / 3600)} h` : `${Math.round(whole / 86400)} d`;
  };

  // Only what changed is touched: a reader's focus and selection stay where they are.
  const setCell = (row, name, parts) => {
    const cell = row.querySelector(`[data-name="${name}"] > div`);
    const key = JSON.stringify(parts);
    if (cell.dataset.key === key) return;
    cell.dataset.key = key;
    cell.parentElement.classList.toggle("empty", parts[0][2] === NOTHING);
    cell.replaceChildren(...parts.filter(Boolean).map(([tag, className, text, more]) => Object.assign(make(tag, className, text), more)));
  };

  const COLUMNS = [
    ["series", "Series"], ["state", "State"], ["result", "Result"], ["images", "Images"], ["last", "Last image"],
    ["latency", "Latency"], ["deadline", "Deadline"], ["sent", "Sent"],
  ];
  const NUMBERS = new Set(["images", "last", "latency"]);
  const newRow = (uid) => {
    const row = make("tr", "series");
    row.dataset.uid = uid;
    for (const [name, label] of COLUMNS) {
      const cell = make(name === "series" ? "th" : "td", NUMBERS.has(name) ? "number" : "");
      if (name === "series") cell.scope = "row";
      cell.dataset.name = name;
      cell.dataset.label = label;
      cell.append(make("div"));
      row.append(cell);
    }
    return row;
  };
  const newStudy = (uid) => {
    const body = make("tbody");
    const row = make("tr", "study");
    const head = make("th");
    head.scope = "rowgroup";
    head.colSpan = COLUMNS.length;
    const name = make("span", "uid", end(uid));
    name.title = uid;
    head.append("Study ", name);
    row.append(head);
    body.append(row);
    return body;
  };

  const result = (one, open) => {
    const parts = [];
    if (one.outcome === "succeeded") parts.push(["span", "outcome", "analysed"]);
    else if (one.outcome === "skipped") parts.push(["span", "outcome", "skipped: no CT series of the hips"]);
    else if (one.outcome) parts.push(["span", "outcome bad", words(one.outcome)]);
    one.reports.forEach((url, i) => {
      const text = one.reports.length > 1 ? `Report, part ${i + 1}` : "Report";
      parts.push(["a", "report", text, { href: url, ariaLabel: `${text} of series ${end(one.series_uid)}` }]);
    });
    if (one.outcome && open) parts.push(["span", "less", "before more images came"]);
    else if (one.outcome && one.generation > 1) parts.push(["span", "less", `result ${one.generation}, replaces an earlier one`]);
    if (one.code) parts.push(["span", "less", `${one.text || ""} [${one.code}]`.trim()]);
    return parts.length ? parts : [["span", "", NOTHING]];
  };
  const deadline = (one, open, now) => {
    if (open && one.deadline_at_s !== null) {
      const left = one.deadline_at_s - now;
      return left < 0 ? ["span", "bad", `overdue by ${span(-left)}`] : ["span", "", `in ${span(left)}`];
    }
    if (!open && one.deadline_missed) return ["span", "bad", "missed"];
    return ["span", "", !open && one.deadline_at_s !== null && one.answered_s !== null ? "kept" : NOTHING];
  };
  const sent = ({ pending, sent, dead }) => {
    const all = pending + sent + dead;
    if (!all) return [["span", "", NOTHING]];
    return [["span", "", `${sent} of ${all}`], dead ? ["span", "less bad", `${dead} given up`] : null];
  };

  const show = (row, one, now) => {
    const open = one.state !== "answered" && one.state !== "set_aside";
    setCell(row, "series", [["span", "uid", end(one.series_uid), { title: one.series_uid }], ["span", "less", one.route]]);
    const again = one.retry_at_s !== null && open ? `try ${one.tries + 1} in ${span(one.retry_at_s - now)}` : null;
    setCell(row, "state", [["span", `state state-${one.state}`, STATES[one.state]], again && ["span", "less", again]]);
    setCell(row, "result", result(one, open));
    setCell(row, "images", [["span", "", String(one.objects)]]);
    setCell(row, "last", [["span", "", `${span(now - one.last_s)} ago`, { title: new Date(one.last_s * 1000).toLocaleString() }]]);
    const outside = one.outside_engine_ms === null ? null : ["span", "less", `(${seconds(one.outside_engine_ms)})`];
    setCell(row, "latency", one.latency_ms === null ? [["span", "", NOTHING]] : [["span", "", seconds(one.latency_ms)], outside]);
    setCell(row, "deadline", [deadline(one, open, now)]);
    setCell(row, "sent", sent(one.deliveries));
  };

  // Moves an element only when it is not there already.
  const place = (parent, index, child) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] || null);
  };

  const render = (data) => {
    const table = byId("table");
    byId("none").hidden = data.series.length > 0;
    table.hidden = data.series.length === 0;
    const order = [...new Set(data.series.map((one) => one.study_uid))];
    const seen = new Set(data.series.map((one) => one.series_uid));
    order.forEach((uid, i) => {
      if (!studies.has(uid)) studies.set(uid, newStudy(uid));
      place(table, i + 1, studies.get(uid)); // behind the head
      data.series.filter((one) => one.study_uid === uid).forEach((one, k) => {
        if (!rows.has(one.series_uid)) rows.set(one.series_uid, newRow(one.series_uid));
        place(studies.get(uid), k + 1, rows.get(one.series_uid));
        show(rows.get(one.series_uid), one, data.now_s);
      });
    });
    for (const [uid, row] of rows) if (!seen.has(uid)) { row.remove(); rows.delete(uid); }
    for (const [uid, body] of studies) if (!order.includes(uid)) { body.remove(); studies.delete(uid); }

    byId("counts").replaceChildren(...COUNTS.map(([name, text, alarm]) => {
      const item = make("li", alarm && data.counts[name] ? "alarm" : "");
      item.dataset.count = name;
      item.append(make("b", "", String(data.counts[name])), text);
      return item;
    }));
    byId("logout").hidden = !data.logged_in;
    tellProblem(data.problems.length ? `The node is not ready: ${data.problems.map(words).join(", ")}.` : "");
  };

  const tellProblem = (text) => {
    const problem = byId("problem");
    if (problem.textContent !== text) problem.textContent = text;
    problem.hidden = !text;
  };
  const tellTime = () => {
    const at = good === null ? "not yet" : good.toLocaleTimeString();
    byId("updated").textContent = `${paused ? "Paused. " : ""}Last update: ${at}`;
  };

  const update = async () => {
    clearTimeout(timer);
    try {
      const answer = await fetch("/api/series", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
      if (answer.status === 401) { location.assign("/login"); return; }
      if (!answer.ok) throw new Error(String(answer.status));
      render(await answer.json());
      good = new Date();
      failures = 0;
    } catch {
      failures += 1;
      tellProblem("The node does not answer; what is shown here may be out of date.");
    }
    tellTime();
    if (!paused && !document.hidden) timer = setTimeout(update, Math.min(SLOWEST_MS, EVERY_MS * 2 ** failures));
  };

  byId("pause").addEventListener("click", () => {
    paused = !paused;
    byId("pause").setAttribute("aria-pressed", String(paused));
    byId("pause").textContent = paused ? "Resume updates" : "Pause updates";
    tellTime();
    if (!paused) update(); else clearTimeout(timer);
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) update(); });
  update();
})();
