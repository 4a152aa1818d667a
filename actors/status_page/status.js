// The status page: polls statusz once a second and draws what changed between two answers.
// Names and reasons come from elsewhere: they reach the page through textContent only.
"use strict";

const POLL_MS = 1000;
const ANSWER_MS = 4000;
const HISTORY_SECONDS = 90;
const AWAY_SECONDS = 4; // a summary older than this says nothing about now
const WIDTH = 300, HEIGHT = 64;
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);
const nodes = new Map(); // id -> {view, last, points}
let latest = null, paused = false;

// --- small helpers ---------------------------------------------------------------------------------

function el(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function svg(tag, attributes = {}) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function mark(element, className) {
  if (element.getAttribute("class") !== className) element.setAttribute("class", className);
}

function count(value) {
  if (value >= 1e9) return (value / 1e9).toFixed(1) + " G";
  if (value >= 1e6) return (value / 1e6).toFixed(1) + " M";
  if (value >= 1e4) return (value / 1e3).toFixed(1) + " k";
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

function bytes(value) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return (unit === "B" || value >= 100 ? Math.round(value) : value.toFixed(1)) + " " + unit;
    value /= 1024;
  }
  return value.toFixed(1) + " TiB";
}

const several = (value, name) => `${count(value)} ${name}${value === 1 ? "" : "s"}`;

function time(seconds) {
  if (seconds === null) return "–";
  if (seconds < 0.001) return Math.round(seconds * 1e6) + " µs";
  return seconds < 1 ? (seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0) + " ms" : seconds.toFixed(1) + " s";
}

function age(seconds) {
  const days = Math.floor(seconds / 86400), hours = Math.floor(seconds / 3600) % 24, minutes = Math.floor(seconds / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

const sum = (values) => values.reduce((total, each) => total + each, 0);

/** The quantile of a histogram, by the line between a bucket's bounds; null: it counts nothing. */
function quantile(bounds, counts, share) {
  let rest = sum(counts) * share;
  if (!rest) return null;
  for (let i = 0; i < counts.length; i++) {
    if (counts[i] >= rest) {
      const low = i ? bounds[i - 1] : 0, high = i < bounds.length ? bounds[i] : low;
      return low + (high - low) * rest / counts[i];
    }
    rest -= counts[i];
  }
  return bounds[bounds.length - 1];
}

// --- one node ----------------------------------------------------------------------------------------

class Chart {
  constructor(title, names, show) {
    this.show = show;
    this.figure = el("figure");
    const caption = el("figcaption"), legend = el("div", "legend");
    this.names = names;
    this.numbers = names.map((_, i) => el("span", i ? "two" : "one"));
    this.most = el("span");
    legend.append(...this.numbers);
    caption.append(el("b", "", title), this.most, legend);
    this.svg = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    for (const y of [0.5, HEIGHT / 2]) this.svg.append(svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
    this.svg.append(svg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }));
    this.area = svg("path", { class: "area" });
    this.lines = names.map((_, i) => svg("path", { class: i ? "two" : "one" }));
    this.svg.append(this.area, ...this.lines);
    this.title = title;
    const plot = el("div", "plot");
    plot.append(this.svg);
    this.figure.append(caption, plot);
  }

  /** points: [{at, values}], now: seconds; a value that is null leaves a gap. */
  draw(points, now, key) {
    const values = points.flatMap((point) => point[key]).filter((value) => value !== null);
    const most = Math.max(...values, 0);
    say(this.most, most ? `max ${this.show(most)}` : "");
    const last = points.at(-1)?.[key];
    this.names.forEach((name, i) => {
      const text = last ? `${name} ${this.show(last[i])}` : `${name} –`;
      say(this.numbers[i], text);
      const runs = this.runs(points, now, key, i, most || 1);
      this.lines[i].setAttribute("d", runs.map((run) => "M" + run.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")).join(""));
      if (i === 0) {
        const filled = runs.filter((run) => run.length > 1).map((run) =>
          `M${run[0][0].toFixed(1)} ${HEIGHT}L` + run.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L") + `L${run.at(-1)[0].toFixed(1)} ${HEIGHT}Z`);
        this.area.setAttribute("d", filled.join(""));
      }
    });
    this.svg.setAttribute("aria-label", `${this.title}: ${this.numbers.map((each) => each.textContent).join(", ")}`);
  }

  runs(points, now, key, i, most) {
    const found = [];
    let run = [], before = -Infinity;
    for (const point of points) {
      const value = point[key][i];
      if (value === null || point.at - before > AWAY_SECONDS) {
        if (run.length) found.push(run);
        run = [];
      }
      if (value !== null) {
        run.push([WIDTH * (1 - (now - point.at) / HISTORY_SECONDS), HEIGHT - (HEIGHT - 3) * value / most]);
        before = point.at;
      }
    }
    if (run.length) found.push(run);
    // One value alone is drawn as a short line, since a path of one point shows nothing.
    return found.map((each) => (each.length > 1 ? each : [[each[0][0] - 2, each[0][1]], each[0]]));
  }
}

class Bars {
  constructor(title, bounds) {
    this.title = title;
    this.bounds = bounds;
    this.figure = el("figure");
    const caption = el("figcaption");
    this.mean = el("span");
    caption.append(el("b", "", title), this.mean);
    this.svg = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.svg.append(svg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }));
    const step = WIDTH / bounds.length;
    this.bars = bounds.map((_, i) => svg("rect", { x: i * step + 1.5, width: step - 3, y: HEIGHT, height: 0, rx: 1.5 }));
    this.svg.append(...this.bars);
    const ticks = el("div", "ticks");
    ticks.setAttribute("aria-hidden", "true");
    for (const bound of [1, 16, 256, "4k", "64k"]) ticks.append(el("span", "", String(bound)));
    const plot = el("div", "plot");
    plot.append(this.svg, ticks);
    this.figure.append(caption, plot);
  }

  draw(counts, entries) {
    const batches = sum(counts), most = Math.max(...counts, 1);
    this.bars.forEach((bar, i) => {
      const height = counts[i] ? Math.max(2, (HEIGHT - 2) * counts[i] / most) : 0;
      bar.setAttribute("y", HEIGHT - height);
      bar.setAttribute("height", height);
    });
    say(this.mean, batches ? `${count(entries / batches)} entries each` : "none applied");
    this.svg.setAttribute("aria-label", `${this.title}: ${this.mean.textContent}`);
  }
}

class NodeView {
  constructor(page) {
    this.card = el("section", "node");
    this.card.setAttribute("role", "listitem");
    const top = el("div", "top");
    this.name = el("h3");
    this.health = el("span", "pill");
    top.append(this.name, this.health);
    this.facts = el("p", "facts");
    this.why = el("p", "why");
    this.messages = new Chart("Messages/s", ["in", "out"], count);
    this.stored = new Chart("Applied/s", ["entries"], count);
    this.syncs = new Chart("Log sync", ["p50", "p99"], time);
    this.commits = new Chart("Commit", ["p50", "p99"], time);
    this.sizes = new Bars("Batch sizes", page.batch_bounds);
    this.cpu = new Chart("Processor", ["cores"], (value) => value.toFixed(2));
    const charts = el("div", "charts");
    for (const each of [this.messages, this.stored, this.syncs, this.commits, this.sizes, this.cpu]) charts.append(each.figure);
    this.card.append(top, this.facts, this.why, charts);
  }

  draw(node, state, now) {
    const { summary } = node;
    say(this.name, node.name);
    const away = isAway(node);
    const healthy = !away && !summary.reasons.length;
    say(this.health, away ? "no answer" : healthy ? "healthy" : "unhealthy");
    mark(this.health, "pill " + (healthy ? "good" : "bad"));
    mark(this.card, away ? "node away" : "node");
    say(this.why, away ? "" : summary.reasons.join("; "));
    say(this.facts, summary === null ? "nothing heard yet" :
      `leads ${summary.groups_led} of ${count(summary.groups_total)} · ${several(summary.connections, "client")} · up ` +
      `${age(summary.uptime_seconds)} · log ${bytes(summary.log_bytes)} · memory ${bytes(summary.mem)}`);
    const { points } = state;
    this.messages.draw(points, now, "messages");
    this.stored.draw(points, now, "stored");
    this.syncs.draw(points, now, "sync");
    this.commits.draw(points, now, "commit");
    this.cpu.draw(points, now, "cpu");
    const width = this.sizes.bounds.length;
    this.sizes.draw(Array.from({ length: width }, (_, i) => sum(points.map((point) => point.sizes[i] ?? 0))), sum(points.map((point) => point.entries)));
  }
}

function isAway(node) {
  return node.summary === null || node.age_seconds === null || node.age_seconds > AWAY_SECONDS;
}

/** What happened between two summaries of one node. */
function between(page, before, after, at) {
  const seconds = after.uptime_seconds - before.uptime_seconds;
  const rate = (name) => Math.max(0, after[name] - before[name]) / seconds;
  const fresh = (name) => after[name].map((value, i) => Math.max(0, value - (before[name][i] ?? 0)));
  const syncs = fresh("sync_counts"), commits = fresh("commit_counts"), sizes = fresh("batch_counts");
  const both = (counts) => [0.5, 0.99].map((share) => quantile(page.seconds_bounds, counts, share));
  return {
    at, sizes,
    messages: [rate("in_msgs"), rate("out_msgs")],
    stored: [rate("batch_entries")],
    entries: Math.max(0, after.batch_entries - before.batch_entries),
    sync: both(syncs),
    commit: both(commits),
    cpu: [rate("cpu_seconds")],
  };
}

function take(page, now) {
  const seen = new Set();
  for (const node of page.nodes) {
    seen.add(node.id);
    let state = nodes.get(node.id);
    if (!state) {
      state = { view: new NodeView(page), last: null, points: [] };
      nodes.set(node.id, state);
      $("nodes").append(state.view.card);
    }
    const { last } = state, { summary } = node;
    if (summary !== null) {
      const grown = last === null ? 0 : summary.uptime_seconds - last.uptime_seconds;
      // A process that began again counts from zero: its first summary is only a beginning.
      if (last !== null && grown > 0 && grown < 10) state.points.push(between(page, last, summary, now));
      if (grown !== 0 || last === null) state.last = summary;
    }
    while (state.points.length && now - state.points[0].at > HISTORY_SECONDS) state.points.shift();
  }
  for (const [id, state] of nodes) {
    if (!seen.has(id)) {
      state.view.card.remove();
      nodes.delete(id);
    }
  }
}

// --- the cluster -------------------------------------------------------------------------------------

const TOTALS = ["nodes", "groups", "messages in/s", "messages out/s", "stored/s", "sync p99", "batches of lag"];
const totals = new Map();

function drawTotals(page) {
  const here = page.nodes.filter((node) => !isAway(node));
  const newest = page.nodes.map((node) => nodes.get(node.id).points.at(-1)).filter((point) => point && performance.now() / 1000 - point.at < AWAY_SECONDS);
  const add = (key, i) => sum(newest.map((point) => point[key][i]));
  const slowest = Math.max(-1, ...newest.map((point) => point.sync[1] ?? -1));
  const led = sum(here.map((node) => node.summary.groups_led));
  // How far a node is that does not answer, a new leader does not know.
  const names = new Set(here.map((node) => node.name));
  const lags = here.flatMap((node) => node.summary.groups.flatMap((group) => group.lags)).filter(([name]) => names.has(name)).map(([, lag]) => lag);
  // Every replica applies each entry; what is stored once in the cluster is what the busiest applied.
  const stored = Math.max(0, ...newest.map((point) => point.stored[0]));
  const values = [`${here.length} of ${page.nodes.length}`, count(led), count(add("messages", 0)), count(add("messages", 1)), count(stored),
    slowest < 0 ? "–" : time(slowest), lags.length ? count(Math.max(...lags)) : "–"];
  TOTALS.forEach((name, i) => {
    if (!totals.has(name)) {
      const tile = el("div"), value = el("dd");
      tile.append(el("dt", "", name), value);
      $("totals").append(tile);
      totals.set(name, value);
    }
    say(totals.get(name), values[i]);
  });
  const away = page.nodes.filter(isAway).map((node) => node.name);
  const ill = here.filter((node) => node.summary.reasons.length).map((node) => node.name);
  const verdict = away.length ? `no answer from ${away.join(", ")}` : ill.length ? `unhealthy: ${ill.join(", ")}` : "healthy";
  say($("verdict"), verdict);
  mark($("verdict"), "pill " + (away.length || ill.length ? "bad" : "good"));
}

/** name -> {name, places: node -> group, lags: node -> batches, and the leader's (or anybody's) numbers}. */
function gather(page) {
  const found = new Map();
  for (const node of page.nodes) {
    for (const group of isAway(node) ? [] : node.summary.groups) {
      const row = found.get(group.name) ?? { name: group.name, kind: group.kind, places: new Map(), lags: new Map(), shown: group };
      row.places.set(node.name, group);
      if (group.role === "leader" && (row.shown.role !== "leader" || group.term >= row.shown.term)) {
        row.shown = group;
        row.lags = new Map(group.lags);
      }
      found.set(group.name, row);
    }
  }
  return [...found.values()].sort((a, b) => (b.kind === "meta") - (a.kind === "meta") || a.name.localeCompare(b.name));
}

function place(row, node) {
  const cell = el("td", "place"), group = row.places.get(node.name), lag = row.lags.get(node.name) ?? 0;
  if (group) {
    const role = el("span", "role", group.trouble || group.role);
    if (group.trouble) role.className = "role bad";
    else if (group.role === "leader") role.className = "role leader";
    else if (group.role !== "follower") role.className = "role wait";
    cell.append(role);
    if (lag > 0) cell.append(el("span", "lag", `${count(lag)} behind`));
  } else if (row.lags.has(node.name)) cell.append(el("span", "role bad", "no answer"));
  return cell;
}

function drawGroups(page) {
  const wanted = $("find").value.toLowerCase();
  const rows = gather(page), chosen = rows.filter((row) => row.name.toLowerCase().includes(wanted));
  const head = [["group", ""], ...page.nodes.map((node) => [node.name, "place"]), ["term", ""], ["committed", ""], ["messages", ""], ["size", ""], ["consumers", ""]];
  $("head").replaceChildren(...head.map(([name, className]) => {
    const cell = el("th", className, name);
    cell.scope = "col";
    return cell;
  }));
  $("rows").replaceChildren(...chosen.map((row) => {
    const made = el("tr"), { shown } = row, isStream = shown.messages !== undefined;
    const name = el("td", "name", row.name);
    name.title = row.name;
    const numbers = [count(shown.term), count(shown.commit), isStream ? count(shown.messages) : "", isStream ? bytes(shown.bytes) : "", isStream ? count(shown.consumers) : ""];
    made.append(name, ...page.nodes.map((node) => place(row, node)), ...numbers.map((text) => el("td", "", text)));
    return made;
  }));
  const hidden = Math.max(0, ...page.nodes.filter((node) => !isAway(node)).map((node) => node.summary.groups_total - node.summary.groups.length));
  const parts = [];
  if (wanted) parts.push(`${chosen.length} of ${rows.length} groups`);
  if (hidden) parts.push(`a node has ${count(hidden)} more groups than are shown: raftz has all of them`);
  say($("more"), parts.join("; "));
}

function draw() {
  if (latest === null) return;
  const now = performance.now() / 1000;
  say($("cluster"), latest.cluster_name);
  say($("server"), latest.server_name);
  document.title = `${latest.cluster_name} · Trimaran`;
  for (const node of latest.nodes) nodes.get(node.id).view.draw(node, nodes.get(node.id), now);
  drawTotals(latest);
  drawGroups(latest);
}

async function poll() {
  if (!paused && !document.hidden) {
    try {
      const answer = await fetch("statusz", { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      const page = await answer.json();
      if (!paused) {
        latest = page;
        take(page, performance.now() / 1000);
        draw();
      }
    } catch (error) {
      say($("verdict"), `no answer from ${latest?.server_name ?? "this node"}`);
      mark($("verdict"), "pill bad");
    }
  }
  setTimeout(poll, POLL_MS);
}

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  say($("pause"), paused ? "Go on" : "Pause");
});
$("find").addEventListener("input", draw);
poll();
