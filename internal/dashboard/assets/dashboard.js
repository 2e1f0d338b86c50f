// Keeps a page true while it is looked at. Every page is whole without it.
"use strict";

const main = () => document.getElementById("main");
const watch = document.body.dataset.watch || "";

// Times: the moment in the reader's zone, and how long ago it was.
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const hour = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
function ago(ms) {
  const s = Math.abs(ms) / 1000, unit = (n, name) => Math.floor(n) + name;
  if (ms >= 0 && s < 10) return "just now";
  const text = s < 60 ? unit(s, " s") : s < 3600 ? unit(s / 60, " min") : s < 172800 ? unit(s / 3600, " h")
    : s < 5184000 ? unit(s / 86400, " days") : unit(s / 2592000, " months");
  return ms < 0 ? "in " + text : text + " ago";
}
function times(root) {
  for (const t of root.querySelectorAll("time[datetime]")) {
    const at = new Date(t.dateTime);
    if (isNaN(at)) continue;
    if ("ago" in t.dataset) t.textContent = ago(Date.now() - at);
    if (t.dataset.local) continue;
    t.dataset.local = "1";
    if ("hour" in t.dataset) t.textContent = hour.format(at);
    else if (!("ago" in t.dataset)) t.textContent = exact.format(at);
    t.title = exact.format(at) + " (" + t.dateTime + ")";
  }
  for (const p of root.querySelectorAll("progress[data-started]")) {
    const value = Date.now() - new Date(p.dataset.started);
    if (value > p.max) p.max = value;
    p.value = value;
  }
}
setInterval(() => times(document), 1000);

// A form of a moment has it in UTC; a reader's own clock is offered beside it.
function forms(root) {
  for (const range of root.querySelectorAll("input[type=range][data-from]")) {
    const from = +range.dataset.from, output = document.getElementById(range.dataset.output), text = document.getElementById(range.dataset.sets);
    range.addEventListener("input", () => {
      const at = new Date(from + range.value * 60000);
      text.value = at.toISOString().slice(0, 16);
      if (output) output.textContent = exact.format(at);
    });
    // Keys and screen readers move it step by step: with them the button goes there, or Enter.
    let pointed = false;
    range.addEventListener("pointerdown", () => { pointed = true; });
    range.addEventListener("keydown", () => { pointed = false; });
    range.addEventListener("change", () => { if (pointed) range.form.requestSubmit(); });
  }
}

// Run logs stand at their end until the reader scrolls.
function ends(root) {
  for (const log of root.querySelectorAll("pre.log[data-end]")) log.scrollTop = log.scrollHeight;
}

// What has the focus, told so that it can be found again in another copy of the page.
function focused() {
  const e = document.activeElement;
  if (!e || e === main() || !main().contains(e)) return null;
  const name = ["id", "href", "name"].find(n => e.getAttribute(n)), within = e.parentElement.closest("[id]");
  const which = "#" + CSS.escape(within.id) + " " + e.localName + (name ? "[" + name + "=" + CSS.escape(e.getAttribute(name)) + "]" : "");
  return { which, at: [...document.querySelectorAll(which)].indexOf(e) };
}
const writing = () => {
  const e = document.activeElement;
  return e && main().contains(e) && e.matches("input, select, textarea") || main().querySelector("details.act[open]");
};

// What is around the main part and may become another: who is signed in, and the stylesheet and
// the script, which a new version of the deployer may have changed.
const around = page => [...page.querySelectorAll("head [href^='/assets/'], head [src^='/assets/'], header.top .who b")]
  .map(e => e.getAttribute("href") || e.getAttribute("src") || e.textContent).join("\n");

let asked = 0, fresh = null, failures = 0;
async function refresh() {
  if (document.hidden || writing()) { fresh = fresh || setTimeout(() => { fresh = null; refresh(); }, 2000); return; }
  const turn = ++asked;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
    const text = await answer.text();
    if (turn !== asked) return; // a newer one is on its way
    if (answer.status >= 500 && failures++ < 3) return; // what is shown is better than nothing, for a while
    if (answer.ok) failures = 0;
    const page = new DOMParser().parseFromString(text, "text/html"), next = page.getElementById("main");
    if (+page.body.dataset.after > after) tells(false); // a proxy keeps the stream to itself
    if (!next || writing()) return;
    if (around(page) !== around(document)) { location.reload(); return; }
    const focus = focused(), logs = [...main().querySelectorAll("pre.log")].map(l => [l.scrollTop, l.scrollTop + l.clientHeight > l.scrollHeight - 8]);
    const before = main().querySelector("h1")?.textContent, open = [...main().querySelectorAll("details[open]")].map(d => d.id);
    main().replaceChildren(...next.childNodes);
    document.title = page.title;
    document.querySelector("footer").replaceWith(page.querySelector("footer"));
    for (const id of open) if (id) document.getElementById(id)?.setAttribute("open", "");
    prepare(main());
    times(document);
    main().querySelectorAll("pre.log").forEach((l, i) => { if (logs[i]) l.scrollTop = logs[i][1] ? l.scrollHeight : logs[i][0]; });
    if (focus) document.querySelectorAll(focus.which)[focus.at]?.focus({ preventScroll: true });
    const now = main().querySelector("h1")?.textContent;
    if (now !== before) document.getElementById("said").textContent = now;
  } catch { /* the next one may come through */ }
}

function prepare(root) { times(root); forms(root); follow(root); }

// The end of a run log, as long as the run goes on.
let following = 0;
function follow(root) {
  clearInterval(following);
  const log = root.querySelector("pre.log[data-tail]");
  if (!log) return;
  let tag = "";
  following = setInterval(async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(log.dataset.tail, { headers: tag ? { "If-None-Match": tag } : {}, credentials: "same-origin", cache: "no-store" });
      if (answer.status !== 200 || !log.isConnected) return;
      tag = answer.headers.get("ETag") || "";
      const page = new DOMParser().parseFromString(await answer.text(), "text/html"), next = page.querySelector("pre");
      const atEnd = log.scrollTop + log.clientHeight > log.scrollHeight - 8;
      if (next) log.replaceChildren(...next.childNodes);
      if (atEnd) log.scrollTop = log.scrollHeight;
    } catch { /* the next one may come through */ }
  }, 1000);
}

// Which events make this page another one.
function concerns(event) {
  if (watch === "*" || !event) return true;
  const [key, name] = watch.split("=");
  return key === "delivery" ? event.delivery_id === name : event.deployment === name || event.deployment === null;
}

// Whether the stream tells what happens; where it does not, the page is asked for again and again.
let timer = 0, soon = 0, live = null;
function tells(on) {
  if (on === live) return; // or a stream that fails again and again would put off each refresh
  live = on;
  clearInterval(timer);
  timer = setInterval(refresh, on ? 60000 : 5000);
  document.getElementById("live").textContent = on ? "live" : "refreshed every 5 s";
  document.querySelector("header.top .who").classList.toggle("on", on);
}
// A browser has six connections to a host, for all of its tabs: one that nobody sees gives its own back.
let source = null, after = document.body.dataset.after;
const leave = () => { source?.close(); source = null; };
function stream() {
  if (source || document.hidden) return;
  source = new EventSource("/api/v1/events?after=" + after);
  const changed = message => {
    after = message.lastEventId || after;
    tells(true);
    let event = null;
    try { event = JSON.parse(message.data); } catch { return; }
    if (!concerns(event)) return;
    // Not all that look at a page ask for it at the same moment.
    soon = soon || setTimeout(() => { soon = 0; refresh(); }, 100 + Math.random() * 300);
  };
  source.onopen = () => { tells(true); refresh(); };
  source.onmessage = changed;
  source.onerror = () => {
    tells(false);
    if (source?.readyState === EventSource.CLOSED) { leave(); setTimeout(stream, 15000); }
  };
}

prepare(document);
ends(document);
if (watch) {
  tells(false);
  if (window.EventSource) stream();
  addEventListener("visibilitychange", () => { if (document.hidden) leave(); else { if (window.EventSource) stream(); refresh(); } });
  addEventListener("pagehide", leave);
  addEventListener("pageshow", e => { if (e.persisted) location.reload(); });
}
