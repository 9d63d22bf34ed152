// RAM: what is resident after the runs, in its parts, and the peaks.
const PARTS = [
  ["heap", "anonymous: heap, packed kernels, activations"],
  ["mapped", "mapped: pages of the model's files"],
  ["library", "other: pages of libraries"],
];

const partsOf = ({ run_bytes: run, run_anonymous_bytes: anonymous, run_mapped_bytes: mapped }) => [anonymous, mapped, Math.max(0, run - anonymous - mapped)];

function ramRow(index, most) {
  const { ram } = measurements[index];
  const bar = el("div", { class: "bar", role: "img", "aria-label": `${printable(nameOf(index))}: ${mb(ram.run_peak_bytes)} at run peak` });
  partsOf(ram).forEach((size, at) => {
    if (size > 0) bar.append(styled(el("i", { class: PARTS[at][0], title: `${PARTS[at][1]}: ${mb(size)}` }), { width: percent(size / most) }));
  });
  const mark = (kind, size, title) => styled(el("span", { class: kind, title: `${title}: ${mb(size)}` }), { left: percent(Math.max(0, size) / most) });
  const track = el("div", { class: "track" }, bar, mark("peak run-peak", ram.run_peak_bytes, "run peak"), mark("peak load-peak", ram.load_peak_bytes, "load peak"));
  const result = [el("strong", {}, mb(ram.run_peak_bytes)), ` at run peak, ${mb(ram.load_peak_bytes)} while loading`];
  return [el("div", {}, label(nameOf(index), 60)), el("div", {}, track, el("div", { class: "result" }, result))];
}

function showRam() {
  const known = measurements.flatMap(({ ram }, index) => (ram ? [index] : []));
  if (!known.length) return void (measurements.length && section("ram", "RAM", "", el("p", {}, "The system does not tell the memory of a process.")));
  const highest = Math.max(1, ...known.flatMap((index) => [measurements[index].ram.run_peak_bytes, measurements[index].ram.load_peak_bytes, sum(partsOf(measurements[index].ram))]));
  const most = 1.06 * highest;
  const axis = el("div", { class: "axis" });
  const step = niceStep(most, 6);
  for (let size = 0; size <= 0.97 * most; size += step) axis.append(styled(el("span", {}, size ? mb(size) : "0"), { left: percent(size / most) }));
  const legend = el("ul", { class: "legend" }, PARTS.map(([kind, says]) => el("li", {}, el("span", { class: `key ${kind}` }), says)), el("li", {}, "▼ run peak"), el("li", {}, "△ load peak"));
  const part = (title, at) => ({ title, number: true, cell: (index) => kb(partsOf(measurements[index].ram)[at]) });
  const of = (title, key) => ({ title, number: true, cell: (index) => kb(measurements[index].ram[key]) });
  section("ram", "RAM", "after the runs, above the process before it opened the file; of the process that took the most", legend,
    el("div", { class: "rows" }, known.flatMap((index) => ramRow(index, most)), el("div", { class: "blank" }), axis),
    table("", [
      { title: "", cell: (index) => label(nameOf(index), 44) },
      of("run peak", "run_peak_bytes"), of("load peak", "load_peak_bytes"), of("loaded", "loaded_bytes"), of("after the runs", "run_bytes"),
      part("anonymous", 0), part("mapped", 1), part("other", 2), of("before the file", "baseline_bytes"),
    ], known, 20));
}
