// Elements, figures and names. A name from a file only ever becomes text: nothing here makes markup from a string.
const report = JSON.parse(document.getElementById("report").textContent);

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== ""));
  return element;
}

const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// Through the object model: the page's policy allows no style attributes.
function styled(element, properties) {
  for (const [key, value] of Object.entries(properties)) element.style.setProperty(key, value);
  return element;
}

const percent = (part) => `${(100 * part).toFixed(4)}%`;

// As the terminal prints it: half to even where a figure lies just between two, as Python rounds.
function fixed(value, digits) {
  const scaled = value * 10 ** digits;
  const tie = Number.isInteger(value * 8) && Math.abs(scaled % 1) === 0.5;
  const figure = (tie ? (2 * Math.round(scaled / 2)) / 10 ** digits : value).toFixed(digits);
  const [whole, part] = figure.split(".");
  return [whole.replace(/\B(?=(\d{3})+$)/g, ","), ...(part ? [part] : [])].join(".");
}

const kb = (size) => (size == null ? "unknown" : size >= 1000 ? `${fixed(size / 1e3, 1)} kB` : `${size} B`);
const mb = (size) => (size == null || size < 100_000 ? kb(size) : `${fixed(size / 1e6, 2)} MB`);
const signed = (size, figure = mb) => (size == null ? "unknown" : `${size < 0 ? "−" : "+"}${figure(Math.abs(size))}`);
const ratio = (part) => (part == null || !Number.isFinite(part) ? "–" : `${fixed(100 * part, 1)} %`);
const plural = (count, noun) => `${count.toLocaleString("en-US")} ${noun}${count === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;
const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);

function quantity(value) {
  if (value == null) return "–";
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"]])
    if (value >= size) return `${fixed(value / size, 2)} ${unit}`;
  return value.toLocaleString("en-US");
}

const shape = (sizes) => (sizes == null ? "–" : sizes.map((size) => size ?? "?").join("×") || "scalar");

// Control and format characters (bidirectional marks among them) must not change how the text around them reads.
const printable = (text) => String(text).replace(/[\p{C}\p{Z}]/gu, (letter) => (letter === " " ? " " : "\ufffd"));

function shortened(text, limit) {
  const letters = Array.from(printable(text).slice(0, 4000));
  const tail = Array.from(printable(text).slice(-limit));
  if (letters.length <= limit) return letters.join("");
  const half = Math.floor((limit - 1) / 2);
  return `${letters.slice(0, half).join("")}…${tail.slice(-half).join("")}`;
}

function label(text, limit = 64) {
  return el("bdi", { class: "name", title: shortened(text, 500) }, shortened(text, limit));
}

// Columns: {title, cell(row), number}; the first `shown` rows, the others behind a button.
function table(caption, columns, rows, shown = 8) {
  const body = el("tbody");
  const add = (some) => {
    for (const row of some) {
      const cells = columns.map(({ cell, number }) => el("td", { class: number ? "number" : null }, cell(row)));
      body.append(el("tr", {}, cells));
    }
  };
  add(rows.slice(0, shown));
  const heads = columns.map(({ title, number }) => el("th", { scope: "col", class: number ? "number" : null }, title));
  const head = el("thead", {}, el("tr", {}, heads));
  const drawn = el("div", { class: "scroll" }, el("table", {}, caption ? el("caption", {}, caption) : null, head, body));
  if (rows.length <= shown) return drawn;
  const more = el("button", { type: "button", class: "action" }, `show all ${rows.length.toLocaleString("en-US")}`);
  more.addEventListener("click", () => (add(rows.slice(shown)), more.remove()));
  return el("div", {}, drawn, more);
}

function figure(title, value, remark) {
  return el("div", {}, el("dt", {}, title), el("dd", {}, value, remark ? el("small", {}, remark) : null));
}

function niceStep(most, count) {
  const rough = most / count, power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((size) => size * power >= rough) * power;
}

const sections = [];

function section(id, title, lead, ...children) {
  const head = el("header", {}, el("h2", { id: `${id}-title` }, title), lead ? el("p", { class: "lead" }, lead) : null);
  const made = el("section", { id, "aria-labelledby": `${id}-title` }, head, children);
  sections.push({ id, title });
  document.getElementById("page").append(made);
  return made;
}

// The index under the pointer, or the next one by keyboard: the same for the sharing map and the timeline.
function browse(element, plot, count, show, start = () => 0) {
  let index = null;
  const at = (event) => {
    const box = plot.getBoundingClientRect();
    return Math.max(0, Math.min(count - 1, Math.floor((count * (event.clientX - box.left)) / box.width)));
  };
  element.addEventListener("pointermove", (event) => {
    if (plot.getBoundingClientRect().left <= event.clientX) show((index = at(event)), event);
  });
  element.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -count, End: count };
    if (!(event.key in steps)) return;
    event.preventDefault();
    index = index == null ? start() : Math.max(0, Math.min(count - 1, index + steps[event.key]));
    show(index, event);
  });
}
