// RAM over time: the bytes of activations alive at each op, and what is alive at the peak.
function nodeLabel({ node, op_type: type }) {
  return [type && !String(node ?? "").includes(type) ? `${shortened(type, 32)} ` : "", label(node || "(no name)", 56)];
}

function chart(timeline, readout) {
  const count = timeline.length;
  const peakAt = timeline.reduce((best, { live_bytes }, index) => ((live_bytes ?? 0) > (timeline[best].live_bytes ?? 0) ? index : best), 0);
  const peak = timeline[peakAt].live_bytes ?? 0;
  const most = Math.max(1, peak) * 1.12;
  const height = (size) => 1000 * (1 - (size ?? 0) / most);
  const edge = timeline.map(({ live_bytes }, index) => `${index ? "V" : "M0 "}${height(live_bytes).toFixed(2)}H${index + 1}`).join("");
  const cursor = draw("rect", { class: "cursor", x: -5, y: 0, width: 1, height: 1000 });
  const svg = draw("svg", { viewBox: `0 0 ${count} 1000`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const y = el("div", { class: "y" }), x = el("div", { class: "x" });
  const step = niceStep(most, 4);
  for (let size = 0; size <= most; size += step) {
    svg.append(draw("line", { class: "rule", x1: 0, x2: count, y1: height(size), y2: height(size) }));
    y.append(styled(el("span", {}, size ? mb(size) : "0"), { top: percent(1 - size / most) }));
  }
  svg.append(draw("path", { class: "area", d: `M0 1000V${height(timeline[0].live_bytes).toFixed(2)}${edge.slice(edge.indexOf("H"))}V1000Z` }), draw("path", { class: "edge", d: edge }));
  svg.append(draw("line", { class: "peak-line", x1: peakAt + 0.5, x2: peakAt + 0.5, y1: height(peak), y2: 1000 }), cursor);
  const ticks = Math.max(1, Math.round(niceStep(count, 8)));
  for (let op = 0; op < count; op += ticks) x.append(styled(el("span", {}, op ? op.toLocaleString("en-US") : "op 1"), { left: percent(op ? (op - 0.5) / count : 0) }));
  const side = peakAt / count > 0.5 ? " left" : "";
  const flag = styled(el("span", { class: `peak-label${side}` }, el("strong", { class: "bad" }, `peak ${mb(peak)}`), " ", nodeLabel(timeline[peakAt])), {
    left: percent((peakAt + 0.5) / count),
    "max-width": percent(Math.max(peakAt, count - peakAt) / count),
  });
  const plot = el("div", { class: "plot", tabindex: 0, role: "group", "aria-label": `Bytes of activations alive at each of ${plural(count, "op")}; the peak is ${mb(peak)} at op ${peakAt + 1}. Arrow keys go from op to op.` }, svg, flag);
  const show = (index) => {
    const op = timeline[index];
    cursor.setAttribute("x", index);
    readout.replaceChildren(`op ${index + 1} of ${count}: `, ...nodeLabel(op), `, ${mb(op.live_bytes)} alive`, op.live_bytes == null ? "" : ` (${ratio(op.live_bytes / Math.max(1, peak))} of the peak)`);
  };
  browse(plot, svg, count, show, () => peakAt);
  return el("div", { class: "chart" }, y, plot, x);
}

function showTimeline() {
  const timeline = activations.timeline ?? [];
  const lead = activations.peak_bytes == null ? "the peak is unknown" : [`${mb(activations.peak_bytes)} alive at the peak, `, ...nodeLabel(activations)];
  const readout = el("p", { class: "readout", role: "status" }, el("span", { class: "muted hint" }, "Point at an op, or move with the arrow keys."));
  const alive = [
    { title: "activation", cell: (row) => label(row.made_by || row.name, 48) },
    { title: "shape", cell: (row) => shape(row.shape) },
    { title: "type", cell: (row) => shortened(row.dtype, 20) },
    { title: "bytes", number: true, cell: (row) => kb(row.bytes) },
  ];
  section("timeline", "RAM timeline", lead,
    timeline.length ? [readout, chart(timeline, readout)] : el("p", { class: "muted" }, "The order of the ops is not known."),
    activations.alive?.length ? table("Alive at the peak", alive, activations.alive, 12) : null);
}

function showSuggestions() {
  const rows = report.suggestions ?? [];
  if (!rows.length) return;
  section("suggestions", "What would lower it", "", el("ol", { class: "suggestions" }, rows.map(({ text, saved_bytes }) =>
    el("li", {}, saved_bytes == null ? null : el("strong", {}, `${mb(saved_bytes)} less: `), shortened(text, 600)))));
}
