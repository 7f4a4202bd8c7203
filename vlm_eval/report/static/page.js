"use strict";
// Texts of models and judges come in through textContent alone: nothing in them is ever markup.
const W = DATA.words;
function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  if (className) element.className = className;
  return element;
}
const written = (value, digits) => value.toLocaleString(document.documentElement.lang,
  {minimumFractionDigits: digits, maximumFractionDigits: digits});
const byValue = (a, b) => (a ? a[0] : -Infinity) - (b ? b[0] : -Infinity);
// [value to sort by, its words, its interval's words]: rounded once, in Python, as in report.md.
function number(cell) {
  const value = cell.getValue(), box = make("span");
  if (!value) return box;
  box.append(value[1]);
  if (value[2]) box.append(" ", make("span", value[2], "interval"));
  return box;
}
// Tabulator sorts by click alone; Enter on a header does the same.
function keyboardSort(table, place) {
  table.on("tableBuilt", () => {
    for (const header of document.querySelectorAll(`${place} .tabulator-sortable`)) {
      header.tabIndex = 0;
      header.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); header.click(); }
      });
    }
  });
}
const plain = (cell) => make("span", cell.getValue());
const runs = new Tabulator("#runs", {
  data: DATA.rows, layout: "fitDataFill", columns: [
    {title: W.candidate, field: "candidate", formatter: plain, frozen: window.innerWidth > 700},
    {title: W.task, field: "task", formatter: plain},
    {title: W.state, field: "state", formatter: (cell) => {
      const row = cell.getData();
      return make("span", row.state + (row.error ? `: ${row.error}` : ""), row.state === "ok" ? "" : "failed");
    }},
    ...DATA.columns.map((c) => ({title: c.title, field: c.name, sorter: byValue, hozAlign: "right",
                                 formatter: number})),
  ], nestedFieldSeparator: false,
});
keyboardSort(runs, "#runs");

DATA.entries.forEach((entry, place) => { entry.place = place; });
const share = (cell) => make("span", cell.getValue() === null ? "" : written(cell.getValue(), 3));
const items = new Tabulator("#items", {
  data: DATA.entries, layout: "fitColumns", height: "60vh", placeholder: "–", nestedFieldSeparator: false,
  columns: [
    {title: W.item, field: "item", widthGrow: 2, formatter: (cell) => {
      const button = make("button", cell.getValue(), "open");
      button.type = "button";
      button.addEventListener("click", () => open(cell.getData().place));
      return button;
    }},
    {title: W.task, field: "task", formatter: (cell) => make("span", DATA.tasks[cell.getValue()])},
    {title: W.device, field: "device", formatter: plain},
    {title: W.question, field: "question", widthGrow: 3, formatter: plain},
    {title: W.lowest, field: "lowest", hozAlign: "right", formatter: share, sorter: "number"},
    {title: W.spread, field: "spread", hozAlign: "right", formatter: share, sorter: "number"},
  ],
});
keyboardSort(items, "#items");

const filters = document.getElementById("filters");
function options(name, values, word) {
  const select = filters.elements[name];
  select.append(new Option(W.all, ""));
  for (const value of values) select.append(new Option(word(value), value));
}
options("task", [...new Set(DATA.entries.map((e) => e.task))], (task) => DATA.tasks[task]);
options("device", [...new Set(DATA.entries.map((e) => e.device).filter(Boolean))].sort(), (device) => device);
function wanted(entry) {
  const {task, device, spread, errors, search} = filters.elements, words = search.value.trim().toLowerCase();
  return (!task.value || entry.task === task.value) && (!device.value || entry.device === device.value)
    && (!spread.value || (entry.spread !== null && entry.spread > Number(spread.value))) && (!errors.checked || entry.errors)
    && (!words || `${entry.item} ${entry.question}`.toLowerCase().includes(words));
}
function count() {
  document.getElementById("count").textContent = `${W.shown}: ${DATA.entries.filter(wanted).length} / ${DATA.entries.length}`;
}
filters.addEventListener("input", () => { items.setFilter(wanted); count(); });
filters.addEventListener("submit", (event) => event.preventDefault());
count();

// The answers of large sweeps lie in files beside the page, a hundred items each.
const waiting = {};
window.vlmEvalPart = (part, rows) => { PARTS[part] = rows; for (const resolve of waiting[part] || []) resolve(); };
function load(part) {
  if (PARTS[part]) return Promise.resolve();
  return new Promise((resolve, reject) => {
    (waiting[part] ||= []).push(resolve);
    const script = make("script");
    script.src = `answers/${part}.js`;
    script.onerror = () => reject(new Error(`answers/${part}.js`));
    document.head.append(script);
  });
}
const dialog = document.getElementById("opened");
let current = null;
async function open(place) {
  const body = document.getElementById("opened-body");
  current = place;
  if (!dialog.open) dialog.showModal();
  try {
    await load(Math.floor(place / DATA.itemsAPart));
    if (current === place) body.replaceChildren(shown(DATA.entries[place], PARTS[Math.floor(place / DATA.itemsAPart)][place % DATA.itemsAPart]));
  } catch (error) {
    body.replaceChildren(make("p", error.message, "error"));
  }
  dialog.scrollTop = 0;
}
function step(by) {
  const there = items.getData("active").map((entry) => entry.place);  // filtered and sorted as the list is
  const next = there[there.indexOf(current) + by];
  if (next !== undefined) open(next);
}
document.getElementById("previous").addEventListener("click", () => step(-1));
document.getElementById("next").addEventListener("click", () => step(1));
document.getElementById("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
function shown(entry, more) {
  const box = make("div", null, "opened");
  if (entry.image) {
    const picture = make("img");
    picture.src = DATA.pictures[entry.image] || entry.image;
    picture.alt = entry.item;
    box.append(picture);
  } else box.append(make("p", W.no_screenshot, "error"));
  const texts = make("div"), name = make("h3", entry.item);
  name.id = "opened-name";
  texts.append(name);
  if (more.error) texts.append(make("p", more.error, "error"));
  if (entry.question) texts.append(make("p", `${W.question}: ${entry.question}`));
  if (more.reference) texts.append(make("p", `${W.reference}: ${more.reference}`, "text"));
  if (more.facts.length) texts.append(make("p", `${W.expected_facts}: ${more.facts.join("; ")}`));
  // A repeat of all candidates side by side, then the next one.
  const repeats = [...new Set(more.answers.map((answer) => answer.repeat))].sort((a, b) => a - b);
  const asked = DATA.labels.filter((label) =>
    DATA.rows.some((row) => row.candidate === label && row.task === DATA.tasks[entry.task]));
  for (const repeat of repeats.length ? repeats : [0]) {
    if (repeats.length > 1) texts.append(make("h4", `${W.repeat} ${repeat}`, "repeat"));
    const answers = make("div", null, "answers");
    for (const label of asked) {
      const mine = more.answers.filter((answer) => answer.candidate === label && answer.repeat === repeat);
      const none = {candidate: label, text: null, error: W.not_run, judgements: [], found: [], missed: [], invented: []};
      answers.append(...(mine.length ? mine : [none]).map(one));
    }
    texts.append(answers);
  }
  box.append(texts);
  return box;
}
function one(answer) {
  const box = make("article", null, "answer");
  box.append(make("h4", answer.candidate));
  if (answer.text !== null) box.append(make("div", answer.text, "text"));
  if (answer.error) box.append(make("div", `${W.no_answer}: ${answer.error}`, "error"));
  for (const kind of ["found", "missed", "invented"])
    if (answer[kind].length) box.append(make("div", `${W[kind]}: ${answer[kind].join("; ")}`, "facts"));
  for (const j of answer.judgements) {
    const judged = make("div", null, "judgement");
    const scores = j.error ? j.status
      : `${W.score} ${j.score}` + (j.reference === null || j.order === "single" ? "" : `, ${W.reference_score} ${j.reference}`);
    judged.append(make("b", `${j.judge}, ${W[`order_${j.order}`] || j.order}: ${scores}`));
    if (j.error) judged.append(make("div", j.error, "error"));
    if (j.rationale) judged.append(make("div", j.rationale));
    box.append(judged);
  }
  return box;
}
