// Shows the report of a gateway and keeps it up to date. What comes from the gateway is put into
// the page as text only: names of nodes, channels and stores are whatever others have chosen.
"use strict";

const EVERY_MS = 2000;
const ANSWER_WITHIN_MS = 8000;
// Further ones are a click away: what they are about must not be far down the page.
const ALARMS_AT_ONCE = 4;
// Rows of a table that are drawn, however many come.
const MAX_ROWS = 200;
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en");
const when = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

function count(n) {
  return n < 100000 ? whole.format(Math.round(n)) : short.format(n);
}

function many(n, what) {
  return `${count(n)} ${what}${n === 1 ? "" : "s"}`;
}

function rate(n) {
  return n > 0 && n < 10 ? n.toFixed(1) : count(n);
}

function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${unit === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

function micros(us) {
  if (us === null) return "–";
  return us < 1000 ? `${us} µs` : us < 1e6 ? `${(us / 1000).toFixed(1)} ms` : `${(us / 1e6).toFixed(1)} s`;
}

// An element with classes and with content: texts and elements.
function el(name, classes, ...content) {
  const element = document.createElement(name);
  if (classes) element.className = classes;
  element.append(...content.filter((part) => part !== null && part !== undefined));
  return element;
}

function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function chip(element, text, kind) {
  element.textContent = text;
  element.className = `chip ${kind}`;
}

// Columns are { head, cell(row), num, wide }: the first is the header of its row. A cell is text,
// an element, or [text, what is smaller below].
function table(id, columns, rows, nothing) {
  const table = byId(id);
  if (!table.tHead) {
    const head = table.createTHead().insertRow();
    for (const { head: text, num, wide } of columns) {
      const th = el("th", `${num ? "num" : ""} ${wide ? "wide" : ""}`, text);
      th.scope = "col";
      head.append(th);
    }
    table.createTBody();
  }
  const made = rows.slice(0, MAX_ROWS).map((row) => {
    const tr = document.createElement("tr");
    columns.forEach(({ cell, num, wide }, place) => {
      const value = cell(row);
      const td = el(place === 0 ? "th" : "td", `${num ? "num" : ""} ${wide ? "wide" : ""}`);
      if (place === 0) td.scope = "row";
      if (Array.isArray(value)) td.append(value[0], ...(value[1] ? [el("small", "", value[1])] : []));
      else td.append(value);
      tr.append(td);
    });
    return tr;
  });
  if (made.length === 0) {
    const td = el("td", "nothing", nothing);
    td.colSpan = columns.length;
    made.push(el("tr", "", td));
  }
  table.tBodies[0].replaceChildren(...made);
}

function of(id, page) {
  const total = page.total;
  const drawn = Math.min(page.items.length, MAX_ROWS);
  byId(id).textContent = total > drawn
    ? `${whole.format(total)}, of which ${whole.format(drawn)} that matter most are shown`
    : total > 0 ? whole.format(total) : "";
}

function sum(map) {
  return Object.values(map).reduce((all, n) => all + n, 0);
}

function reasons(map) {
  return Object.entries(map).map(([reason, n]) => `${reason.replaceAll("_", " ")}: ${count(n)}`).join(", ");
}

function hot(n) {
  return n > 0 ? el("span", "hot", count(n)) : "0";
}

// A share of a whole as a bar; none of it is an empty place.
function meter(share) {
  if (share <= 0) return el("span", "meter none");
  const bar = svg("svg", { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  bar.append(svg("rect", { width: Math.max(0, Math.min(100, share * 100)), height: 1 }));
  return el("span", "meter", bar);
}

function showHead({ status }) {
  byId("node").textContent = status.node;
  document.title = `${status.alarms > 0 ? `(${status.alarms}) ` : ""}${status.node} – esdb-gater`;
  byId("facts").textContent =
    `esdb-gater ${status.version} · up ${duration(status.uptime_seconds)} · port ${status.config.port}`
    + ` · registry ${status.config.data_dir === null ? "in memory" : "on disk"}`;
  const failed = status.checks.filter((check) => !check.ok).map((check) => check.name);
  chip(byId("ready"), failed.length === 0 ? "Ready" : `Not ready: ${failed.join(", ")}`,
       failed.length === 0 ? "good" : "bad");
  chip(byId("role"), status.role === "leader" ? "Leader" : status.role[0].toUpperCase() + status.role.slice(1),
       status.role === "leader" || status.role === "follower" ? "blue" : "warn");
  const { process } = status;
  byId("process").textContent = [
    `memory ${bytes(process.memory_bytes)}`,
    process.descriptors === null ? null : `${count(process.descriptors)} of ${count(process.descriptor_limit)} files open`,
    process.disk_free_bytes === null ? null : `${bytes(process.disk_free_bytes)} of ${bytes(process.disk_total_bytes)} free on disk`,
  ].filter((part) => part !== null).join(" · ");
}

// Alarms are read out: they are touched only when they have changed.
let alarmsShown = null;
function showAlarms(alarms) {
  byId("alarm-count").textContent = alarms.length > 0 ? String(alarms.length) : "";
  const key = JSON.stringify(alarms.map(({ name, subject, severity, text }) => [name, subject, severity, text]));
  if (key === alarmsShown) return;
  alarmsShown = key;
  const made = alarms.map((alarm) => el("article", `alarm ${alarm.severity === "critical" ? "critical" : ""}`,
    el("span", "severity", alarm.severity),
    el("b", "", alarm.name.replaceAll("_", " ")),
    el("span", "since", `since ${when.format(new Date(alarm.since * 1000))}`),
    el("p", "", alarm.text),
    el("p", "next", `What to do: ${alarm.next_step}`)));
  const rest = made.splice(ALARMS_AT_ONCE);
  if (rest.length > 0) made.push(el("details", "", el("summary", "", `${many(rest.length, "more alarm")}`), ...rest));
  byId("alarm-list").replaceChildren(...(made.length > 0 ? made : [el("p", "fine", "No alarms")]));
}

function showTiles({ status }) {
  const { rates, totals } = status;
  const tiles = [
    ["Published", rate(rates.published), "/s", `${count(totals.published)} in all`],
    ["Delivered", rate(rates.delivered), "/s", `${count(totals.delivered)} in all`],
    ["Dropped", rate(rates.dropped), "/s", `${count(totals.dropped)} in all`, rates.dropped > 0],
    ["Refused", rate(rates.refused), "/s", `${count(totals.refused)} in all`],
    ["Peers", count(totals.peers), "", totals.sessions > 0 ? many(totals.sessions, "shim") : many(totals.gateways, "gateway")],
    ["Subscriptions", count(totals.subscriptions), "", `on ${many(totals.topics, "topic")}`],
    ["Workers", count(totals.registrations), "", `of ${many(totals.stores, "store")}`],
  ];
  byId("tiles").replaceChildren(...tiles.map(([name, number, unit, more, bad]) =>
    el("div", `tile ${bad ? "bad" : ""}`,
      el("dt", "", name),
      el("dd", "number", number, unit ? el("small", "", unit) : null),
      el("dd", "more", more))));
}

const WIDTH = 299;
const HEIGHT = 100;

// A round number that is not below the greatest.
function ceiling(greatest) {
  if (greatest <= 4) return 4;
  const power = 10 ** Math.floor(Math.log10(greatest));
  return [1, 2, 4, 5, 10].map((n) => n * power).find((n) => n >= greatest);
}

function curve(values, top) {
  const from = WIDTH - (values.length - 1);
  return values.map((value, at) =>
    `${at === 0 ? "M" : "L"}${from + at} ${(HEIGHT * (1 - value / top)).toFixed(2)}`).join("");
}

// A chart that is made once; `update` draws it anew.
function chart(id, title, series) {
  const figure = byId(id);
  const keys = series.map(({ look }) => el("span", `key ${look}`));
  const caption = el("figcaption", "", el("strong", "", title), ...keys);
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const y of [0, HEIGHT / 2, HEIGHT]) drawing.append(svg("line", { x1: 0, x2: WIDTH, y1: y, y2: y }));
  const paths = series.map(({ look }) => {
    const area = svg("path", { class: `area ${look}` });
    const stroke = svg("path", { class: `stroke ${look}` });
    drawing.append(area, stroke);
    return { area, stroke };
  });
  const at = svg("line", { class: "at", y1: 0, y2: HEIGHT, visibility: "hidden" });
  drawing.append(at);
  const tip = el("div", "tip");
  tip.hidden = true;
  const [top, half] = [el("span", "y top"), el("span", "y half")];
  const plot = el("div", "plot", drawing, top, half, tip);
  plot.setAttribute("aria-hidden", "true");
  const words = el("p", "sr");
  figure.replaceChildren(caption, plot,
    el("div", "x", el("span", "", "5 min ago"), el("span", "", "now")), words);
  let shown = [];
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const share = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    const back = Math.round((1 - share) * WIDTH);
    const parts = series.map(({ name }, n) => {
      const value = shown[n]?.at(-1 - back);
      return value === undefined ? null : `${name} ${count(value)}`;
    }).filter((part) => part !== null);
    tip.hidden = parts.length === 0;
    tip.textContent = `${parts.join(" · ")} (${back === 0 ? "now" : `${back} s ago`})`;
    tip.style.left = `${Math.max(18, Math.min(82, share * 100))}%`;
    at.setAttribute("x1", share * WIDTH);
    at.setAttribute("x2", share * WIDTH);
    at.setAttribute("visibility", parts.length === 0 ? "hidden" : "visible");
  });
  plot.addEventListener("pointerleave", () => {
    tip.hidden = true;
    at.setAttribute("visibility", "hidden");
  });
  return (history, rates) => {
    shown = series.map(({ name }) => history[name]);
    const greatest = Math.max(...shown.map((values) => Math.max(0, ...values)));
    const limit = ceiling(greatest);
    top.textContent = short.format(limit);
    half.textContent = short.format(limit / 2);
    shown.forEach((values, n) => {
      const line = values.length > 0 ? curve(values, limit) : "";
      paths[n].stroke.setAttribute("d", line);
      paths[n].area.setAttribute("d", line && `${line}L${WIDTH} ${HEIGHT}L${WIDTH - values.length + 1} ${HEIGHT}Z`);
      keys[n].textContent = `${series[n].name} ${rate(rates[series[n].name])}/s`;
    });
    words.textContent = series.map(({ name }, n) =>
      `${name}: ${rate(rates[name])} a second now, ${count(Math.max(0, ...shown[n]))} at the most in the last 5 minutes`).join("; ");
  };
}

const showMessages = chart("chart-messages", "Messages per second", [
  { name: "delivered", look: "first" }, { name: "published", look: "second" }]);
const showLosses = chart("chart-losses", "Lost and refused per second", [
  { name: "dropped", look: "third" }, { name: "refused", look: "fourth" }]);

const HEALTH = {
  healthy: ["Healthy", "good"],
  degraded: ["Degraded: a gateway is missing", "warn"],
  no_quorum: ["No quorum: commands are refused", "bad"],
};

function showConsensus(cluster) {
  const { quorum, log } = cluster;
  const [health, kind] = HEALTH[cluster.health] ?? [cluster.health, "warn"];
  const pairs = [
    ["Health", el("span", `chip ${kind}`, health)],
    ["Leader", cluster.leader ?? "none known"],
    ["Term", whole.format(cluster.term)],
    ["Voters reached", `${quorum.reached} of ${quorum.voters}, ${quorum.needed} needed`],
    ["Log", `applied ${whole.format(log.applied)} of ${whole.format(log.last)}`],
    ["Snapshot at", whole.format(log.snapshot)],
  ];
  if (cluster.never_seen.length > 0) pairs.push(["Never seen", el("span", "hot", cluster.never_seen.join(", "))]);
  byId("quorum").replaceChildren(...pairs.map(([name, value]) =>
    el("div", "", el("dt", "", name), el("dd", "", value))));
  table("members-table", [
    { head: "Gateway", cell: (m) => [m.node, m.node === cluster.node ? "this gateway" : null] },
    { head: "State", cell: (m) => el("span", `chip ${m.connected ? "good" : "bad"}`, m.connected ? "connected" : "not connected") },
    { head: "Role", cell: (m) => m.node === cluster.leader ? "leader" : m.role },
    { head: "Log behind by", num: true, wide: true, cell: (m) => m.matched === null ? "–" : whole.format(Math.max(0, log.last - m.matched)) },
  ], [...cluster.members].sort((a, b) => a.node < b.node ? -1 : 1), "No member of a cluster yet");
}

function showChannels(page) {
  of("channels-of", page);
  const busiest = Math.max(1, ...page.items.map(({ rates }) => rates.delivered));
  table("channels-table", [
    { head: "Channel", cell: (c) => [c.channel.replace(/^esdb_channel_/, ""),
      `${c.priority}${c.hmac === "required" ? ", signed" : ""}${c.max_rate === null ? "" : `, up to ${whole.format(c.max_rate)}/s a topic`}`] },
    { head: "Published/s", num: true, cell: (c) => rate(c.rates.published) },
    { head: "Delivered/s", num: true, cell: (c) => el("span", "", rate(c.rates.delivered), meter(c.rates.delivered / busiest)) },
    { head: "Dropped", num: true, cell: (c) => [hot(sum(c.dropped)), reasons(c.dropped)] },
    { head: "Refused", num: true, wide: true, cell: (c) => [count(sum(c.refused)), reasons(c.refused)] },
    { head: "Subscriptions", num: true, cell: (c) => [count(c.subscriptions), c.topics > 0 ? many(c.topics, "topic") : null] },
    { head: "Nodes", num: true, wide: true, cell: (c) => count(c.nodes.total) },
  ], page.items, "No channels");
}

function showPeers(page, now) {
  of("peers-of", page);
  table("peers-table", [
    { head: "Node", cell: (p) => [p.node, p.kind === "beam" ? null : p.kind] },
    { head: "State", cell: (p) => [el("span", `chip ${p.connected ? "good" : "bad"}`, p.connected ? "connected" : "away"), `for ${duration(now - p.since)}`] },
    { head: "Waiting", num: true, cell: (p) => [p.waiting_bytes > 0 ? bytes(p.waiting_bytes) : "0",
      p.lanes.filter((lane) => lane.messages > 0).map((lane) => `${lane.lane}: ${count(lane.messages)}`).join(", ")] },
    { head: "Dropped", num: true, cell: (p) => hot(p.dropped) },
    { head: "In", num: true, wide: true, cell: (p) => bytes(p.bytes_in) },
    { head: "Out", num: true, wide: true, cell: (p) => bytes(p.bytes_out) },
    { head: "Round trip", num: true, wide: true, cell: (p) => micros(p.round_trip_us) },
    { head: "Last heard", num: true, wide: true, cell: (p) => p.silent_ms === null ? "–" : duration(p.silent_ms / 1000) },
    { head: "Watched", num: true, wide: true, cell: (p) => count(p.processes) },
  ], page.items, "No node is connected");
}

function showSlow(page) {
  of("slow-of", page);
  table("slow-table", [
    { head: "Node", cell: (s) => [s.node, s.advice] },
    { head: "State", cell: (s) => el("span", `chip ${s.losing ? "bad" : s.waiting_bytes > 0 ? "warn" : ""}`,
      s.losing ? "losing messages" : s.waiting_bytes > 0 ? "waiting" : "over") },
    { head: "Dropped", num: true, cell: (s) => hot(s.dropped) },
    { head: "Waiting", num: true, cell: (s) => s.waiting_bytes > 0 ? bytes(s.waiting_bytes) : "0" },
  ], page.items, "All nodes keep up");
}

function showStores(page) {
  of("stores-of", page);
  const most = Math.max(1, ...page.items.map(({ workers }) => workers));
  table("stores-table", [
    { head: "Store", cell: (s) => s.store },
    { head: "Workers", num: true, cell: (s) => el("span", "", whole.format(s.workers), meter(s.workers / most)) },
    { head: "Offered", num: true, cell: (s) => s.offered < s.workers ? el("span", "hot", whole.format(s.offered)) : whole.format(s.offered) },
  ], page.items, "No workers are registered");
}

function showLost(page, now) {
  of("lost-of", page);
  table("lost-table", [
    { head: "Node", cell: (l) => [l.node ?? "unnamed", l.address] },
    { head: "When", cell: (l) => `${duration(now - l.at)} ago` },
    { head: "Stage", cell: (l) => [l.stage, l.origin] },
    { head: "Reason", cell: (l) => l.reason },
    { head: "Times", num: true, wide: true, cell: (l) => whole.format(l.times) },
  ], page.items, "None since the start");
}

function show(report) {
  const now = report.status.now;
  showHead(report);
  showAlarms(report.alarms);
  showTiles(report);
  showMessages(report.history, report.status.rates);
  showLosses(report.history, report.status.rates);
  showConsensus(report.cluster);
  showChannels(report.channels);
  showPeers(report.peers, now);
  showSlow(report.slow);
  showStores(report.stores);
  showLost(report.lost_connections, now);
}

let paused = false;
let answered = null;

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Paused" : "Pause";
  if (!paused) refresh();
});

// Says once that the gateway does not answer, and once that it does again.
function say(text) {
  if (byId("link").textContent !== text) byId("link").textContent = text;
}

let timer = null;
async function refresh() {
  clearTimeout(timer);
  if (paused) return;
  try {
    const response = await fetch("status.json", { signal: AbortSignal.timeout(ANSWER_WITHIN_MS), cache: "no-store" });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const report = await response.json();
    answered = new Date();
    say("");
    show(report);
    document.body.dataset.shown = String(report.status.now);
  } catch {
    say(answered === null
      ? "The gateway does not answer."
      : `The gateway does not answer. Everything below is as it was at ${answered.toLocaleTimeString("en")}.`);
  }
  clearTimeout(timer);
  if (!paused) timer = setTimeout(refresh, document.hidden ? EVERY_MS * 5 : EVERY_MS);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
refresh();
