// Layers: a table that sorts by any column and filters by words. Rows are made as they are scrolled to.
const CHUNK = 200;

const COLUMNS = [
  { title: "#", key: "index", number: true, text: (row) => String(row.index + 1), ascending: true },
  { title: "layer", key: "name", named: true },
  { title: "op", key: "op_type" },
  { title: "output", key: "output_shape", text: (row) => shape(row.output_shape), value: (row) => row.output_shape?.reduce((product, size) => product * (size ?? 1), 1), ascending: false },
  { title: "MACs", key: "macs", number: true, text: (row) => quantity(row.macs), share: true },
  { title: "parameters", key: "parameters", number: true, text: (row) => quantity(row.parameters) },
  { title: "kernel", key: "kernel", named: true },
  { title: "weights", key: "weight_bytes", number: true, text: (row) => (row.weight_bytes == null ? "–" : kb(row.weight_bytes)), share: true },
  { title: "MACs per byte", key: "arithmetic_intensity", number: true, text: (row) => (row.arithmetic_intensity == null ? "–" : fixed(row.arithmetic_intensity, 2)) },
];

// Unknown figures come last in either order; equal ones keep the order of the graph.
function compare({ key, value }, descending) {
  const of = value ?? ((row) => row[key]);
  const text = new Intl.Collator("en", { numeric: true }).compare;
  return (one, other) => {
    const [a, b] = [of(one), of(other)];
    if (a == null || b == null) return (a == null) - (b == null) || one.index - other.index;
    const order = typeof a === "string" ? text(a, b) : a - b;
    return (descending ? -order : order) || one.index - other.index;
  };
}

function layerRow(row, most) {
  const cells = COLUMNS.map(({ key, text, number, named, share }) => {
    const content = named ? (row[key] == null ? "–" : label(row[key], 44)) : text ? text(row) : shortened(row[key] ?? "–", 40);
    const cell = el("td", { class: [number ? "number" : "", share ? "share" : ""].join(" ").trim() || null }, content);
    return share && row[key] ? styled(cell, { "background-size": `${percent(row[key] / most[key])} 3px` }) : cell;
  });
  return el("tr", {}, cells);
}

function showLayers() {
  const rows = (compute?.layers ?? []).map((layer, index) => ({ ...layer, index }));
  if (!rows.length) return () => {};
  const haystack = rows.map((row) => printable([row.name, row.op_type, row.kernel ?? "", shape(row.output_shape)].join(" ")).toLowerCase());
  const most = Object.fromEntries(COLUMNS.filter(({ share }) => share).map(({ key }) => [key, Math.max(1, ...rows.map((row) => row[key] ?? 0))]));
  let listed = rows, sorted = { column: COLUMNS[0], descending: false }, drawn = 0;
  const body = el("tbody"), foot = el("tr"), matches = el("output", { class: "muted" });
  const search = el("input", { type: "search", id: "filter", placeholder: "name, op, kernel or shape", autocomplete: "off", spellcheck: "false" });
  const more = () => {
    const next = listed.slice(drawn, drawn + CHUNK);
    body.append(...next.map((row) => layerRow(row, most)));
    drawn += next.length;
  };
  const heads = COLUMNS.map((column) => {
    const button = el("button", { type: "button" }, column.title);
    const head = el("th", { scope: "col", class: column.number ? "number" : null }, button);
    const descendingFirst = !(column.ascending ?? !column.number);
    button.addEventListener("click", () => {
      sorted = { column, descending: sorted.column === column ? !sorted.descending : descendingFirst };
      update();
    });
    return head;
  });
  const total = () => {
    const kernels = new Set(listed.map((row) => row.kernel).filter((kernel) => kernel != null)).size;
    const whole = listed.length === rows.length;
    const unique = whole && compute.parameters != null ? el("small", {}, `${quantity(compute.parameters)} stored`) : null;
    const figures = { index: "", name: whole ? "total" : "total of these", op_type: "", output_shape: "", macs: quantity(sum(listed.map((row) => row.macs))), parameters: [quantity(sum(listed.map((row) => row.parameters))), unique], kernel: plural(kernels, "kernel"), weight_bytes: kb(sum(listed.map((row) => row.weight_bytes))), arithmetic_intensity: "" };
    foot.replaceChildren(...COLUMNS.map(({ key, number }) => el("td", { class: number ? "number" : null }, figures[key])));
  };
  const scroller = el("div", { class: "layers", tabindex: 0, role: "region", "aria-label": "Table of layers" },
    el("table", {}, el("thead", {}, el("tr", {}, heads)), body, el("tfoot", {}, foot)));
  const update = () => {
    const words = printable(search.value).toLowerCase().split(" ").filter(Boolean);
    listed = rows.filter((row) => words.every((word) => haystack[row.index].includes(word)));
    listed.sort(compare(sorted.column, sorted.descending));
    heads.forEach((head, index) => head.setAttribute("aria-sort", COLUMNS[index] !== sorted.column ? "none" : sorted.descending ? "descending" : "ascending"));
    matches.textContent = `${listed.length.toLocaleString("en-US")} of ${plural(rows.length, "layer")}`;
    body.replaceChildren();
    drawn = 0;
    more();
    total();
    scroller.scrollTop = 0;
  };
  search.addEventListener("input", update);
  scroller.addEventListener("scroll", () => {
    if (drawn < listed.length && scroller.scrollTop + 2 * scroller.clientHeight > scroller.scrollHeight) more();
  });
  addEventListener("beforeprint", () => { while (drawn < Math.min(listed.length, 2000)) more(); });
  update();
  const lead = [`${quantity(compute.macs)} multiply-accumulates`, compute.weight_bytes_read == null ? "" : `, ${mb(compute.weight_bytes_read)} of weights read per inference`].join("");
  section("layers", "Layers", lead, el("div", { class: "tools" }, el("label", { for: "filter" }, "Filter"), search, matches), scroller);
  return (text) => {
    search.value = printable(text);
    update();
    search.scrollIntoView({ block: "center" });
    search.focus({ preventScroll: true });
  };
}
