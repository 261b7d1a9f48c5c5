// The page: asks the agent, shows what it says, and keeps what is chosen in the address.

import { Refused, json, save, setToken } from "./api.js";
import { FlameGraph } from "./flame.js";
import * as format from "./format.js";
import { KIND } from "./layout.js";

/** How often the page looks for something new if the agent does not say how long its windows are. */
const POLL_MS = 10_000;
const FUNCTIONS_MAX = 25;
/** How often the lists of what can be chosen are renewed; they cost the agent more than the picture. */
const CHOICES_MS = 60_000;

const $ = (id) => document.getElementById(id);
const state = { range: "15m", from: "", to: "", collector: "cpu", type: "", who: "", live: true };
let answer = null;
let running = null;
let timer = 0;
let pollMs = POLL_MS;
/** Since when the agent runs. */
let startedMs = 0;
/** For what and when the lists were filled last. */
let filled = { key: "", at: 0 };

const graph = new FlameGraph({
  canvas: $("flame"),
  scroll: $("scroll"),
  spacer: $("spacer"),
  told: (node, event) => tell(node, event),
  zoomed: (isZoomed) => { $("reset").disabled = !isZoomed; },
});

/** A new element with texts and elements in it. Texts stay texts. */
function element(name, attributes, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

function fact(label, value, title = "", mood = "") {
  return element("li", { title, class: mood }, `${label} `, element("b", {}, value));
}

function range() {
  if (state.range !== "custom") return [["from", `-${state.range}`], ["to", "now"]];
  const iso = (text) => (text ? new Date(text).toISOString() : "");
  return [["from", iso(state.from)], ["to", iso(state.to)]].filter(([, time]) => time);
}

function chosen() {
  const parameters = [...range(), ["collector", state.collector]];
  if (state.who) parameters.push(["match", state.who]);
  if (state.type) parameters.push(["type", state.type]);
  return parameters;
}

async function refresh() {
  clearTimeout(timer);
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  try {
    const [profile, functions, status] = await Promise.all([
      json("/api/v1/profile", chosen(), signal),
      json("/api/v1/functions", [...chosen(), ["limit", FUNCTIONS_MAX]], signal),
      json("/api/v1/status", [], signal),
    ]);
    showStatus(status);
    showProfile(profile);
    showFunctions(functions);
    banner("");
    await fillChoices(signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error instanceof Refused && error.status === 401) return login(error);
    banner(error instanceof Refused ? [error.message, error.hint].filter(Boolean).join(" – ") : `the page is wrong: ${error.message}`);
  }
  if (state.live && state.range !== "custom") timer = setTimeout(poll, pollMs);
}

function poll() {
  // Nobody looks at a page in the background.
  if (document.hidden) timer = setTimeout(poll, pollMs);
  else refresh();
}

function banner(text) {
  $("banner").textContent = text;
  $("banner").hidden = !text;
}

function showProfile(profile) {
  answer = profile;
  const sum = profile.total;
  $("empty").hidden = sum > 0;
  $("empty").textContent = "Nothing was measured in this range. Choose another one, or wait for the first window.";
  graph.show(profile.flame, sum);
  showQuality(profile);
  search();
}

function showQuality({ quality, value_type: type, covered_seconds: covered, lost_samples: lost, from, to, total, completeness, nodes_omitted: small }) {
  const facts = [];
  const whole = quality.total;
  if (type) facts.push(fact(`${type.name}:`, format.value(total, type.unit)));
  const cuts = quality.cut.map((cut) => `${format.percent(cut.value, whole)} ${cut.reason}: ${cut.advice}`).join("\n");
  const share = whole > 0 ? quality.complete / whole : 1;
  facts.push(fact("whole stacks:", whole > 0 ? format.percent(quality.complete, whole) : "–", cuts || "every stack reaches its thread's first frame", share < 0.9 ? "bad" : "good"));
  if (quality.cut.length > 0) facts.push(fact("cut mostly because:", quality.cut[0].reason, cuts));
  facts.push(fact("lost samples:", lost === null ? "not known" : lost.toLocaleString("en"), lost === null ? "the history has no record of losses for this range" : "", lost > 0 ? "bad" : ""));
  const asked = (Date.parse(to) - Date.parse(from)) / 1000;
  const isShort = (seconds) => covered < seconds * 0.95 - 20;
  // What is missing from before its start may be because it was never there.
  const isGap = isShort((Date.parse(to) - Math.max(Date.parse(from), startedMs)) / 1000);
  facts.push(fact("measured:", `${format.duration(covered)} of ${format.duration(asked)}`, isShort(asked) ? "the agent did not run, or was paused, for the rest" : "", isGap ? "bad" : ""));
  if (small > 0) facts.push(fact("too small to show:", `${small.toLocaleString("en")} nodes`, "they are added up as ~other"));
  if (completeness.is_timed_out) facts.push(fact("not all was read:", "the range is too long", "", "bad"));
  if (completeness.omitted > 0) facts.push(fact("stacks left out:", completeness.omitted.toLocaleString("en"), "the smallest ones; their values are in the sum"));
  if (completeness.damaged_files > 0) facts.push(fact("damaged files:", String(completeness.damaged_files), completeness.damage ?? "", "bad"));
  $("quality").replaceChildren(...facts);
}

function showFunctions({ functions, total, value_type: type }) {
  const rows = functions.map(({ name, module, own, total: all }) => {
    const mark = element("button", { type: "button", title: "search for it" }, name);
    mark.addEventListener("click", () => { $("search").value = name; search(); });
    const value = (count) => element("td", { class: "number", title: type ? format.value(count, type.unit) : "" }, format.percent(count, total));
    return element("tr", {}, value(own), value(all), element("td", {}, mark), element("td", { class: "file" }, module ?? ""));
  });
  $("functions").replaceChildren(...rows);
}

function showStatus({ version, host, started_unix_ns: startedNs, window_ns: windowNs, cost, shed, paused, collectors, losses }) {
  $("host").textContent = [host, version].filter(Boolean).join(" · ");
  startedMs = startedNs / 1e6;
  document.title = host ? `obs · ${host}` : "obs";
  if (windowNs > 0) pollMs = Math.min(Math.max(windowNs / 1e6, 2_000), 60_000);
  const facts = [];
  const { user_cpu_share: user, bpf_cpu_share: bpf, web_cpu_share: web, cpu_share_max: cpuMax, rss_bytes: rss, map_bytes: maps, memory_bytes_max: memoryMax } = cost;
  if (user !== null) {
    const sum = user + (bpf ?? 0);
    const title = `user space ${format.percent(user, 1)}, in the kernel ${bpf === null ? "not known" : format.percent(bpf, 1)}`;
    facts.push(fact("obs itself:", `${format.percent(sum, 1)} CPU${cpuMax ? ` of ${format.percent(cpuMax, 1)}` : ""}`, title, cpuMax && sum > cpuMax ? "bad" : ""));
  }
  if (web >= 0.0005) facts.push(fact("", `${format.percent(web, 1)} CPU for answers`, "for pages like this one and for whoever else asks; it does not count towards the budget, and has a bound of its own"));
  if (rss !== null) {
    const sum = rss + (maps ?? 0);
    const title = `resident ${format.bytes(rss)}, kernel maps ${maps === null ? "not known" : format.bytes(maps)}`;
    facts.push(fact("", `${format.bytes(sum)}${memoryMax ? ` of ${format.bytes(memoryMax)}` : ""}`, title, memoryMax && sum > memoryMax ? "bad" : ""));
  }
  for (const { name, is_running: isRunning, reason } of collectors) {
    if (!isRunning) facts.push(fact(`${name}:`, "off", reason ?? "", "bad"));
  }
  if (shed.length > 0) facts.push(fact("shed:", shed.map(({ step }) => step).join(", "), shed.map(({ step, reason }) => `${step}: ${reason}`).join("\n"), "bad"));
  if (paused) facts.push(fact("paused:", paused, "", "bad"));
  const lost = losses.reduce((sum, { count }) => sum + count, 0);
  if (lost > 0) facts.push(fact("lost since the start:", lost.toLocaleString("en"), losses.map(({ source, reason, count }) => `${source}: ${count} ${reason}`).join("\n")));
  $("facts").replaceChildren(...facts);
}

/** What can be chosen in the range: collectors with their types, programs, processes, units, containers. */
async function fillChoices(signal) {
  const key = JSON.stringify([state.range, state.from, state.to, state.collector]);
  if (key === filled.key && Date.now() - filled.at < CHOICES_MS) return;
  const [catalog, processes, units, containers] = await Promise.all([
    json("/api/v1/catalog", range(), signal),
    json("/api/v1/processes", [...range(), ["collector", state.collector], ["limit", 100]], signal),
    json("/api/v1/labels/unit", range(), signal),
    json("/api/v1/labels/container", range(), signal),
  ]);
  filled = { key, at: Date.now() };
  const profiles = catalog.collectors.flatMap(({ name, value_types: types }) =>
    types.map((type, at) => [`${name}/${at === types.length - 1 ? "" : type.name}`, `${name} · ${type.name} (${type.unit})`]).reverse());
  fill($("collector"), profiles.length > 0 ? profiles : [[`${state.collector}/`, state.collector]], `${state.collector}/${state.type}`);
  fill($("save"), [["", "…"], ...catalog.formats.filter((name) => name !== "flame").map((name) => [name, name])], "");
  const value = (row) => row.values.at(-1) ?? 0;
  const sum = processes.processes.reduce((total, row) => total + value(row), 0);
  const programs = new Map();
  for (const row of processes.processes) programs.set(row.name, (programs.get(row.name) ?? 0) + value(row));
  const largest = [...programs].sort(([, left], [, right]) => right - left);
  const groups = [
    ["programs", largest.map(([name, part]) => [`process=${name}`, `${name} · ${format.percent(part, sum)}`])],
    ["processes", processes.processes.map((row) => [`pid=${row.pid}`, `${row.name} [${row.pid}] · ${format.percent(value(row), sum)}`])],
    ["units", units.values.map((name) => [`unit=${name}`, name])],
    ["containers", containers.values.map((name) => [`container=${name}`, name.slice(0, 12)])],
  ];
  const select = $("who");
  if (document.activeElement === select) return;
  const option = ([key, text]) => element("option", { value: key }, text);
  const parts = groups.filter(([, rows]) => rows.length > 0).map(([label, rows]) => element("optgroup", { label }, ...rows.slice(0, 200).map(option)));
  select.replaceChildren(option(["", "everything"]), ...parts);
  if (state.who && ![...select.options].some(({ value: key }) => key === state.who)) select.append(option([state.who, state.who]));
  select.value = state.who;
}

function fill(select, options, value) {
  if (document.activeElement === select) return;
  select.replaceChildren(...options.map(([key, text]) => element("option", { value: key }, text)));
  select.value = value;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

function search() {
  const text = $("search").value.trim();
  const sum = graph.search(text);
  if (text && answer) $("focus").textContent = `“${text}”: ${format.percent(sum, answer.total)} in ${graph.found.size} places`;
  else $("focus").textContent = "";
}

function describe(node) {
  const { tree } = graph;
  const unit = answer?.value_type?.unit ?? "count";
  const whole = tree.total[0];
  const kind = node === 0 ? "" : Object.keys(KIND)[tree.kind[node]].replace("Inlined", ", inlined").replace(/^user$/, "");
  const parts = [
    `total ${format.percent(tree.total[node], whole)} (${format.value(tree.total[node], unit)})`,
    `own ${format.percent(tree.own[node], whole)} (${format.value(tree.own[node], unit)})`,
  ];
  if (graph.zoom !== 0) parts.push(`${format.percent(tree.total[node], tree.total[graph.zoom])} of what is shown`);
  return { name: tree.label(node), kind, text: parts.join(" · ") };
}

function tell(node, event) {
  const tooltip = $("tooltip");
  tooltip.hidden = node < 0 || !event;
  if (node < 0 || !answer) return;
  const { name, kind, text } = describe(node);
  if (!event) {
    $("focus").textContent = `${name} – ${text}`;
    return;
  }
  tooltip.replaceChildren(element("strong", {}, name), element("span", {}, [text, kind].filter(Boolean).join(" · ")));
  const box = tooltip.getBoundingClientRect();
  const left = Math.min(event.clientX + 14, innerWidth - box.width - 8);
  const below = event.clientY + 18;
  tooltip.style.left = `${Math.max(8, left)}px`;
  tooltip.style.top = `${below + box.height > innerHeight ? event.clientY - box.height - 10 : below}px`;
}

function login(error) {
  $("login-error").textContent = sessionStorage.getItem("obs-token") ? error.message : "";
  if (!$("login").open) $("login").showModal();
  $("token").focus();
}

function enter() {
  setToken($("token").value.trim());
  $("token").value = "";
  $("login").close();
  refresh();
}

/** The address carries what is chosen, so that it can be handed on. */
function remember() {
  const parts = Object.entries(state).filter(([, value]) => value !== "" && value !== true).map(([key, value]) => [key, String(value)]);
  history.replaceState(null, "", `#${new URLSearchParams(parts)}`);
}

function recall() {
  for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
    if (key === "live") state.live = value !== "false";
    else if (Object.hasOwn(state, key)) state[key] = value;
  }
  $("range").value = state.range;
  if ($("range").selectedIndex < 0) $("range").value = state.range = "15m";
  $("custom").hidden = state.range !== "custom";
  $("from").value = state.from;
  $("to").value = state.to;
  $("live").checked = state.live;
}

function change(update) {
  update();
  remember();
  refresh();
}

function localTime(date) {
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

$("range").addEventListener("change", () => change(() => {
  state.range = $("range").value;
  $("custom").hidden = state.range !== "custom";
  if (state.range === "custom" && answer) {
    $("from").value = state.from ||= localTime(new Date(answer.from));
    $("to").value = state.to ||= localTime(new Date(answer.to));
  }
}));
for (const id of ["from", "to"]) $(id).addEventListener("change", () => change(() => { state[id] = $(id).value; }));
$("collector").addEventListener("change", () => change(() => { [state.collector, state.type] = $("collector").value.split("/"); }));
$("who").addEventListener("change", () => change(() => { state.who = $("who").value; }));
$("live").addEventListener("change", () => change(() => { state.live = $("live").checked; }));
$("search").addEventListener("input", search);
$("reset").addEventListener("click", () => graph.zoomTo(0));
$("save").addEventListener("change", async () => {
  const name = $("save").value;
  $("save").value = "";
  try {
    if (name) await save("/api/v1/profile", [...chosen(), ["format", name]]);
  } catch (error) {
    banner(error.message);
  }
});
$("login-ok").addEventListener("click", enter);
$("token").addEventListener("keydown", (event) => { if (event.key === "Enter") enter(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "")) {
    $("search").focus();
    event.preventDefault();
  }
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && state.live && state.range !== "custom") refresh(); });
addEventListener("hashchange", () => { recall(); refresh(); });

recall();
refresh();
