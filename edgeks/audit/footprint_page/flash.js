// Flash: one bar of the file's bytes, the floor and the compressed size marked, and what is stored twice.
function ruler(side, size, whole, text) {
  if (size == null) return null;
  const position = Math.min(1, size / whole);
  const mark = el("span", { class: position > 0.5 ? "left" : null }, text);
  return el("div", { class: `ruler ${side}` }, styled(mark, { left: percent(position) }));
}

function showFlash() {
  const parts = [
    ["unique", "weights, each once", flash.unique_bytes],
    ["duplicates", "byte-equal copies", flash.constant_bytes - flash.unique_bytes],
    ["graph", "graph: structure and names", flash.graph_bytes - (flash.metadata_bytes ?? 0)],
    ["metadata", "metadata", flash.metadata_bytes ?? 0],
  ];
  const whole = Math.max(1, flash.file_bytes, sum(parts.map(([, , size]) => size)));
  const share = (size) => size / Math.max(1, flash.file_bytes);
  const bar = el("div", { class: "bar", role: "img", "aria-label": "The bytes of the file, by what they are: the table has the figures" });
  for (const [kind, title, size] of parts)
    if (size > 0) bar.append(styled(el("i", { class: kind, title: `${title}: ${mb(size)}` }), { width: percent(size / whole) }));
  const about = flash.compressed_is_estimate ? "about " : "";
  const compressed = ruler("above", flash.compressed_bytes, whole, `compressed, as an update is sent: ${about}${mb(flash.compressed_bytes)}`);
  const floor = ruler("below", flash.floor_bytes, whole, `floor, each kernel once: ${mb(flash.floor_bytes)}`);
  const over = flash.floor_bytes == null ? null : flash.file_bytes - flash.floor_bytes;
  const rows = [...parts.filter(([, , size]) => size > 0), ["", "file", flash.file_bytes]];
  const columns = [
    { title: "part", cell: ([kind, title]) => (kind ? [el("span", { class: `key ${kind}` }), title] : el("strong", {}, title)) },
    { title: "bytes", number: true, cell: ([, , size]) => kb(size) },
    { title: "share", number: true, cell: ([, , size]) => ratio(share(size)) },
  ];
  const ops = [
    { title: "op", cell: (row) => label(row.op_type, 40) },
    { title: "nodes", number: true, cell: (row) => (row.nodes ? quantity(row.nodes) : "–") },
    { title: "constants", number: true, cell: (row) => quantity(row.constants) },
    { title: "stored", number: true, cell: (row) => kb(row.stored_bytes) },
  ];
  const lead = [
    mb(flash.file_bytes),
    over == null ? "" : `, ${mb(over)} over the floor`,
    flash.saved_bytes ? `; with a kernel per layer it would be ${mb(flash.file_bytes + flash.saved_bytes)}` : "",
  ].join("");
  section("flash", "Flash", lead, compressed, bar, floor, el("div", { class: "columns" }, table("", columns, rows), table("Constants by the op that reads them", ops, flash.ops ?? [])));
}
