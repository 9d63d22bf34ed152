// The sharing map: a column per layer in graph order, a row per kernel that several layers read, a bead where one does.
// What identifies a kernel is its row; the colour only helps the eye along it. Copies have hollow beads on a dashed line.
const ROW = 20;

function sharingRows() {
  const columns = (compute?.layers ?? []).filter((layer) => layer.kernel != null);
  const byName = new Map(), byKernel = new Map();
  const note = (map, key, index) => map.get(key)?.push(index) ?? map.set(key, [index]);
  columns.forEach((layer, index) => (note(byName, layer.name, index), note(byKernel, layer.kernel, index)));
  const rows = [];
  for (const group of flash.sharing_groups ?? []) {
    const at = new Set(byKernel.get(group.constant));
    for (const name of group.layers) {
      if (!byName.has(name)) note(byName, name, columns.push({ name, kernel: group.constant }) - 1);
      if (byName.get(name).length === 1 || !at.size) byName.get(name).forEach((index) => at.add(index));
    }
    rows.push({ kind: "shared", group, at: [...at].sort((a, b) => a - b) });
  }
  for (const copies of flash.copies ?? []) {
    const at = copies.constants.flatMap((constant) => byKernel.get(constant) ?? []).sort((a, b) => a - b);
    if (at.length > 1) rows.push({ kind: "copies", copies, at });
  }
  rows.sort((a, b) => a.at[0] - b.at[0] || b.at.length - a.at.length);
  rows.forEach((row, index) => (row.colour = index % 6));
  return { columns, rows };
}

function rowText(row) {
  if (row.kind === "shared") {
    const { constant, dtype, shape: sizes, stored_bytes, saved_bytes } = row.group;
    return [label(constant), ` (${dtype} ${shape(sizes)}, ${kb(stored_bytes)}), stored once for ${plural(row.group.reads, "layer")}: saves ${mb(saved_bytes)}`];
  }
  const { kind, constants, shape: sizes, wasted_bytes } = row.copies;
  const alike = kind === "equal" ? "byte for byte the same" : "the same up to a factor per channel";
  return [plural(constants.length, "constant"), " from ", label(constants[0], 40), ` (${shape(sizes)}), ${alike}; stored once: ${mb(wasted_bytes)} less`];
}

const beads = (row) => row.at.map((column) => `M${column + 0.5} ${row.y}h.0001`).join("");

function legendSample(kind) {
  const picture = draw("svg", { class: "sample", viewBox: "0 0 40 14", "aria-hidden": "true" });
  if (kind === "stub") return fill(picture, {}, [draw("path", { class: "stub", d: "M14 8h12v6h-12z" })]);
  const [colour, d] = kind === "copies" ? ["k1", "M5 7h.01M35 7h.01"] : ["k0", "M5 7h.01M20 7h.01M35 7h.01"];
  const parts = [draw("path", { class: `thread ${kind} ${colour}`, d: "M5 7H35" }), draw("path", { class: `beads ${colour}`, d })];
  return fill(picture, {}, kind === "copies" ? [...parts, draw("path", { class: "holes", d })] : parts);
}

function showSharing(filterLayers) {
  const { columns, rows } = sharingRows();
  if (!columns.length) return;
  const lead = `${plural(flash.kernels, "kernel")} for ${plural(flash.layers, "layer")}; ${rows.filter(({ kind }) => kind === "shared").length} shared`;
  if (!rows.length) return void section("sharing", "Sharing map", lead, el("p", {}, "No two layers read the same kernel, and no two kernels are copies of one another."));
  const count = columns.length, height = rows.length * ROW;
  const rowsAt = columns.map(() => []);
  const strip = draw("svg", { viewBox: `0 0 ${count} 22`, height: 22, preserveAspectRatio: "none", "aria-hidden": "true" });
  const plot = draw("svg", { viewBox: `0 0 ${count} ${height}`, height, preserveAspectRatio: "none", "aria-hidden": "true" });
  const chosenColumn = draw("rect", { class: "chosen-column", width: 1, height, x: -2 });
  const rules = rows.map((_, index) => (index % 2 ? "" : `M0 ${index * ROW}h${count}v${ROW}h-${count}z`)).join("");
  plot.append(draw("path", { class: "zebra", d: rules }), chosenColumn);
  const cells = Array.from({ length: 6 }, () => ({ shared: "", copies: "" }));
  rows.forEach((row, index) => {
    row.y = (index + 0.5) * ROW;
    const [first, last] = [row.at[0] + 0.5, row.at.at(-1) + 0.5];
    plot.append(draw("path", { class: `thread ${row.kind} k${row.colour}`, d: `M${first} ${row.y}H${last}` }));
    plot.append(draw("path", { class: `beads k${row.colour}`, d: beads(row) }));
    if (row.kind === "copies") plot.append(draw("path", { class: "holes", d: beads(row) }));
    for (const column of row.at) {
      rowsAt[column].push(row);
      cells[row.colour][row.kind] += row.kind === "shared" ? `M${column + 0.1} 3h.8v16h-.8z` : `M${column + 0.15} 5h.7v12h-.7z`;
    }
  });
  const alone = columns.map((_, column) => (rowsAt[column].length ? "" : `M${column + 0.2} 13h.6v6h-.6z`)).join("");
  strip.append(draw("path", { class: "stub", d: alone }));
  cells.forEach(({ shared, copies }, colour) => strip.append(draw("path", { class: `f${colour}`, d: shared }), draw("path", { class: `hollow k${colour}`, d: copies })));

  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((size) => count / size <= 12) ?? 5000;
  const ticks = el("div", { class: "ticks", "aria-hidden": "true" });
  for (let layer = step; layer <= count; layer += step) ticks.append(styled(el("span", { class: layer === count ? "last" : null }, layer), { left: percent((layer - 0.5) / count) }));
  const labels = el("div", { class: "labels" }, rows.map((row) => {
    const name = row.kind === "shared" ? row.group.constant : row.copies.constants[0];
    const times = row.kind === "shared" ? `${row.group.reads} layers` : `${row.copies.constants.length} copies`;
    return (row.label = el("div", {}, label(name, 40), el("span", { class: "count muted" }, times)));
  }));
  const readout = el("p", { class: "readout", role: "status" });
  const chosen = el("div", {});
  const hint = "Point at a layer, or move with the arrow keys; click, or press Enter, to list the layers that read the same kernel.";
  readout.append(el("span", { class: "muted hint" }, hint));

  let current = null;
  const choose = (index, event) => {
    current = index;
    chosenColumn.setAttribute("x", index);
    const layer = columns[index];
    const text = [`layer ${index + 1} of ${count}: `, label(layer.name), layer.op_type ? ` (${shortened(layer.op_type, 24)}${layer.output_shape ? ` → ${shape(layer.output_shape)}` : ""})` : "", " reads "];
    const read = rowsAt[index].length ? rowsAt[index].flatMap((row, at) => [at ? "; " : "", ...rowText(row)]) : [label(layer.kernel), ", which no other layer reads"];
    readout.replaceChildren(...text, ...read, ".");
    rows.forEach((row) => row.label.classList.toggle("chosen", rowsAt[index].includes(row)));
    if (event.type === "keydown") rowsAt[index][0]?.label.scrollIntoView({ block: "nearest" });
  };
  const pin = (row) => {
    const layers = row.at.map((column) => columns[column]);
    const items = layers.slice(0, 200).map(({ name, runs }) => el("li", {}, label(name, 48), runs > 1 ? ` ×${runs}` : ""));
    if (layers.length > 200) items.push(el("li", {}, `and ${layers.length - 200} more`));
    const key = row.kind === "shared" ? row.group.constant : columns[row.at[0]].kernel;
    const button = el("button", { type: "button", class: "action", click: () => filterLayers(key) }, "show them in the table of layers");
    chosen.replaceChildren(el("h3", {}, ...rowText(row)), el("ul", { class: "chips" }, items), button);
  };
  const map = el("div", { class: count > 100 ? "map dense" : "map", tabindex: 0, role: "group", "aria-label": `Sharing map: ${lead}. Arrow keys go from layer to layer.` },
    el("div", { class: "corner" }, "kernel", el("br"), "layer →"), el("div", { class: "strip" }, strip, ticks), labels, plot);
  const spread = (wide) => styled(map, { "--width": wide ? `${6 * count}px` : "0" });
  const fit = el("input", { type: "checkbox", id: "fit", change: () => spread(!fit.checked) });
  spread(true);
  browse(map, plot, count, choose);
  map.addEventListener("click", (event) => {
    const box = plot.getBoundingClientRect();
    const row = event.clientY >= box.top ? rows[Math.floor((event.clientY - box.top) / ROW)] : rowsAt[current]?.[0];
    if (row) pin(row);
  });
  map.addEventListener("keydown", (event) => event.key === "Enter" && rowsAt[current]?.[0] && pin(rowsAt[current][0]));
  const legend = el("ul", { class: "legend" },
    el("li", {}, legendSample("shared"), "one kernel, stored once"),
    rows.some(({ kind }) => kind === "copies") ? el("li", {}, legendSample("copies"), "sharing lost: copies that could be one kernel") : null,
    el("li", {}, legendSample("stub"), "a layer with a kernel of its own"),
    count > 100 ? el("li", { class: "hint" }, fit, el("label", { for: "fit" }, " all layers in one view")) : null);
  const grouped = [
    { title: "kernel", cell: (row) => label(row.constant, 40) },
    { title: "shape", cell: (row) => shape(row.shape) },
    { title: "type", cell: (row) => row.dtype },
    { title: "stored", number: true, cell: (row) => kb(row.stored_bytes) },
    { title: "saved", number: true, cell: (row) => kb(row.saved_bytes) },
    { title: "layers", number: true, cell: (row) => row.reads },
  ];
  const copied = [
    { title: "constants", cell: (row) => [label(row.constants[0], 32), ", ", label(row.constants[1] ?? "", 32), row.constants.length > 2 ? " …" : ""] },
    { title: "shape", cell: (row) => shape(row.shape) },
    { title: "how alike", cell: (row) => (row.kind === "equal" ? "byte for byte" : "up to a factor") },
    { title: "copies", number: true, cell: (row) => row.constants.length },
    { title: "wasted", number: true, cell: (row) => kb(row.wasted_bytes) },
  ];
  const tables = el("div", { class: "columns" },
    flash.sharing_groups?.length ? table("Sharing groups", grouped, flash.sharing_groups) : null,
    flash.copies?.length ? table("Stored more than once", copied, flash.copies) : null);
  section("sharing", "Sharing map", lead, legend, readout, map, chosen, tables);
}
