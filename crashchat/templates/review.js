// One clip at a time: shown, decided, and the next one, which was fetched meanwhile.
const $ = (words) => document.querySelector(words);
const form = $("#answers"), marks = [...document.querySelectorAll(".mark")];
const TIMES = ["first_sign", "start", "end"], TEXTS = ["description", "cause", "prevention"];
const fetched = new Map(); // {clip's number: promise of it and its video}
const drafts = new Map(); // {clip's number: what was written of it before another clip came, not decided yet}
const REACTION = 300; // ms: a key that comes sooner was not meant for the clip that is shown
let waiting = [], passed = new Set(), shown = null, video = null, filled = null;
let last = Promise.resolve(), pending = 0; // what is asked of the server, one after another: no answer overtakes a later one
let ready = false, timer = 0; // whether keys are taken: the clip was to be seen for REACTION without a key

async function ask(address, body) {
  const answer = await fetch(address, body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const value = await answer.json().catch(() => ({ detail: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Error(typeof value.detail === "string" ? value.detail : "this is nothing that can be decided: check the answers");
  return value;
}
function tell(text) { $("#told").textContent = text; }
function get(number) {
  if (!fetched.has(number)) fetched.set(number, ask(`api/clips/${number}`).then((clip) => {
    const film = document.createElement("video");
    Object.assign(film, { controls: true, preload: "auto", muted: true, tabIndex: -1 });
    film.setAttribute("aria-label", `video of ${clip.name}`);
    if (!clip.missing) film.src = `videos/${number}`;
    const strips = clip.strips.map((address) => Object.assign(new Image(), { src: address, alt: `frames of ${clip.name}` }));
    return { clip, film, strips };
  }).catch((error) => { fetched.delete(number); throw error; }));
  return fetched.get(number);
}
async function proceed(number) {
  const queue = await ask("api/queue");
  $("#progress").textContent = `${queue.user} (${queue.role}): ${queue.decided} of ${queue.clips} clips decided, ${queue.waiting} wait`;
  for (const name of ["description", "cause"]) $(`#${name}s`).replaceChildren(...queue.choices[name].map((text) => Object.assign(document.createElement("option"), { value: text })));
  waiting = queue.next;
  let left = waiting.filter((one) => !passed.has(one.clip));
  if (!left.length && waiting.length) { passed = new Set(); left = waiting; }
  const next = number === undefined ? left[0] : { clip: number, why: "decided before" };
  if (!next) { leave(); shown = null; $("#name").textContent = "Nothing waits for you."; $("#about").textContent = ""; $("#screen").replaceChildren(); $("#strips").replaceChildren(); document.body.dataset.clip = ""; return; }
  show(await get(next.clip), next.why);
  const after = left.find((one) => one.clip !== next.clip);
  if (after) get(after.clip).catch(() => {});
  for (const known of fetched.keys()) if (known !== next.clip && known !== after?.clip) fetched.delete(known);
}
function leave() {
  video?.pause();
  if (shown && written() !== filled) drafts.set(shown.clip, { labels: labels(), comment: form.comment.value });
}
function show({ clip, film, strips }, why) {
  leave();
  shown = clip; video = film;
  $("#screen").replaceChildren(clip.missing ? clip.missing : film);
  $("#strips").replaceChildren(...strips);
  $("#name").textContent = clip.name;
  const sure = clip.probability === null ? "" : `, P(crash) ${clip.probability.toFixed(3)}`;
  $("#about").textContent = `${why}; the model says ${clip.status}${sure}`;
  const list = [...clip.warnings, ...clip.notes, ...clip.unlike].map((text) => Object.assign(document.createElement("li"), { textContent: text }));
  $("#notes").replaceChildren(...list);
  $("#others").replaceChildren(...clip.others.map((one) => Object.assign(document.createElement("p"), { textContent:
    `${one.user}: ${one.verdict}, crash ${one.labels.crash === null ? "not said" : one.labels.crash ? "yes" : "no"}, first sign ${one.labels.first_sign ?? "–"}, crash ${one.labels.start ?? "–"} to ${one.labels.end ?? "–"} s. ${one.comment}` })));
  fill(clip.mine ? clip.mine.labels : clip.model);
  form.comment.value = clip.mine?.comment ?? "";
  filled = written();
  const draft = drafts.get(clip.clip);
  if (draft) { fill(draft.labels); form.comment.value = draft.comment; drafts.delete(clip.clip); }
  video.ontimeupdate = draw; video.onseeked = draw; video.onloadedmetadata = draw;
  draw(); $("main").inert = false; $("#name").focus();
}
function written() { return JSON.stringify([labels(), form.comment.value]); }
function fill(labels) {
  form.crash.value = labels.crash === null ? "" : labels.crash ? "yes" : "no";
  for (const name of TEXTS) form[name].value = labels[name];
  for (const name of TIMES) form[name].value = labels[name] ?? "";
}
function labels() {
  const crash = { yes: true, no: false }[form.crash.value] ?? null, said = { crash };
  for (const name of TEXTS) said[name] = form[name].value.trim();
  for (const name of TIMES) said[name] = form[name].value === "" ? null : Number(form[name].value);
  return said;
}
function known() { return shown?.seconds || video?.duration || Infinity; }
function length() { return Number.isFinite(known()) ? known() : 1; }
function draw() {
  if (!shown) return;
  const place = (second) => `${Math.min(Math.max(second / length(), 0), 1) * 100}%`;
  for (const mark of marks) {
    const value = form[mark.dataset.time].value;
    mark.hidden = value === "";
    mark.style.left = place(Number(value));
    mark.setAttribute("aria-valuenow", value || 0); mark.setAttribute("aria-valuemax", length()); mark.setAttribute("aria-valuetext", `${value} s`);
  }
  const said = labels(), band = $("#band");
  band.hidden = said.start === null || said.end === null;
  band.style.left = place(said.start ?? 0);
  band.style.width = `${Math.max((said.end ?? 0) - (said.start ?? 0), 0) / length() * 100}%`;
  $("#now").style.left = place(video.currentTime);
  $("#moment").textContent = `${video.currentTime.toFixed(2)} s of ${length().toFixed(1)} s`;
}
function set(name, second) {
  form[name].value = Math.min(Math.max(second, 0), known()).toFixed(1);
  draw();
}
function mark(name) {
  if (video.readyState < HTMLMediaElement.HAVE_METADATA) tell("The video is still loading: no time was set.");
  else set(name, video.currentTime);
}
function seek(second) { if (!video) return; video.pause(); video.currentTime = Math.min(Math.max(second, 0), known()); draw(); }
function crash(word) {
  form.crash.value = word;
  if (word === "no") for (const name of [...TIMES, ...TEXTS]) form[name].value = "";
  draw();
}
function changed() { return JSON.stringify(labels()) !== JSON.stringify({ crash: shown.model.crash, ...Object.fromEntries([...TEXTS, ...TIMES].map((name) => [name, shown.model[name]])) }); }
function wait() { ready = false; clearTimeout(timer); document.body.dataset.clip = ""; }
function soon() { if (pending || !shown) return; wait(); timer = setTimeout(() => { ready = true; document.body.dataset.clip = shown.name; }, REACTION); }
function refuse() {
  tell("Not taken: this came before the clip was to be seen, or while another answer was saved.");
  soon(); // whoever writes on meant what was there before
}
function working(work) {
  pending += 1; wait(); $("main").inert = true;
  last = last.then(work).catch((error) => tell(error.message)).finally(() => {
    pending -= 1;
    if (pending) return;
    $("main").inert = false;
    if (document.activeElement === document.body) $("#name").focus();
    requestAnimationFrame(soon);
  });
  return last;
}
function decide(verdict) {
  if (!ready) { refuse(); return; }
  // Of the clip and answers that are on the screen now. A confirmation sends the model's own labels: a text
  // field may have changed their white space.
  const { clip, name, model } = shown, comment = form.comment.value;
  const said = verdict === "correct" || (verdict === "confirm" && changed()) ? labels() : model;
  working(async () => {
    await ask("api/decisions", { clip, verdict, labels: said, comment });
    filled = written(); fetched.delete(clip);
    tell(`${name}: ${verdict}`);
    await proceed();
  });
}
function skip() {
  if (!ready) { refuse(); return; }
  passed.add(shown.clip); tell("");
  working(() => proceed());
}
let undoing = false;
function undo() {
  if (undoing) return;
  undoing = true;
  working(async () => {
    const back = await ask("api/undo", {}).finally(() => { undoing = false; });
    fetched.delete(back.clip);
    tell(`${back.name}: undone`);
    await proceed(back.clip);
  });
}
const statistics = () => working(async () => {
  const { fleet, agreement } = await ask("api/statistics");
  const share = (name, one) => one.value === null ? `${name}: not known yet` : `${name}: ${one.value.toFixed(3)} (${one.low.toFixed(3)} to ${one.high.toFixed(3)}; ${one.hits} of ${one.number})`;
  const lines = [`Random share: ${fleet.decided} of ${fleet.clips} clips decided, ${fleet.left_out} unsure or unusable`, share("crash rate", fleet.crash_rate), share("the model's precision", fleet.precision), share("the model's recall", fleet.recall)];
  for (const pair of agreement) lines.push(`${pair.one} and ${pair.other}: the same on ${pair.same} of ${pair.clips} clips, kappa ${pair.kappa === null ? "not known" : pair.kappa.toFixed(2)}; ` + Object.entries(pair.differences).map(([time, apart]) => `${time} ${apart} s apart`).join(", "));
  $("#figures").replaceChildren(...lines.map((text) => Object.assign(document.createElement("p"), { textContent: text })));
  $("#statistics").showModal();
});
const keys = {
  " ": () => { if (!video) return; if (video.paused) video.play().catch(() => {}); else video.pause(); },
  ",": () => seek(video.currentTime - shown.frame), ".": () => seek(video.currentTime + shown.frame),
  "[": () => seek(video.currentTime - 1), "]": () => seek(video.currentTime + 1),
  f: () => mark("first_sign"), s: () => mark("start"), e: () => mark("end"),
  y: () => crash("yes"), o: () => crash("no"), d: () => form.description.focus(), r: () => form.cause.focus(), p: () => form.prevention.focus(), m: () => form.comment.focus(),
  c: () => decide("confirm"), x: () => decide("correct"), u: () => decide("unsure"), b: () => decide("unusable"),
  n: skip, z: undo, t: statistics, "?": () => $("#help").showModal(),
};
document.addEventListener("keydown", (event) => {
  const field = event.target.matches("input, textarea, select");
  if (document.querySelector("dialog[open]") || event.altKey || event.metaKey) return;
  if (event.ctrlKey && event.key === "Enter" && shown) { event.preventDefault(); if (!event.repeat) decide(changed() ? "correct" : "confirm"); return; }
  if (field && event.key === "Escape") { $("#name").focus(); return; }
  if (field || event.ctrlKey) return;
  if (event.target.matches(".mark") && event.key.startsWith("Arrow")) {
    const name = event.target.dataset.time, step = event.shiftKey ? 1 : 0.1;
    set(name, Number(form[name].value) + (["ArrowRight", "ArrowUp"].includes(event.key) ? step : -step));
    seek(Number(form[name].value)); event.preventDefault(); return;
  }
  if (event.key === " " && event.target.matches("button:not(.mark)")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (!(key in keys) || (!shown && !"zt?".includes(key))) return;
  event.preventDefault();
  if (event.repeat && !",.[]".includes(key)) return;
  if (ready || "zt?".includes(key)) keys[key](); else refuse();
});
$("#lane").addEventListener("pointerdown", (event) => {
  const lane = $("#lane"), mark = event.target.closest(".mark"), box = lane.getBoundingClientRect();
  const move = (where) => { const second = (where.clientX - box.left) / box.width * length(); if (mark) set(mark.dataset.time, second); seek(second); };
  lane.setPointerCapture(event.pointerId); mark?.focus(); if (!mark) move(event);
  lane.onpointermove = move; lane.onpointerup = lane.onpointercancel = () => { lane.onpointermove = null; };
});
form.addEventListener("input", draw);
function single(work) { return (event) => { if (event.detail < 2) work(); }; } // the second of a double click is no second decision
form.addEventListener("submit", (event) => event.preventDefault());
for (const button of document.querySelectorAll("[data-verdict]")) button.addEventListener("click", single(() => decide(button.dataset.verdict)));
$("#skip").addEventListener("click", single(skip)); $("#undo").addEventListener("click", single(undo));
$("#show-help").addEventListener("click", () => $("#help").showModal()); $("#show-statistics").addEventListener("click", statistics);
working(() => proceed());
