// Distributions: the samples of each process as a hill, all on one axis, so that processes can be told apart.
const BINS = 160;

function hill(samples, from, to) {
  const bins = new Array(BINS).fill(0);
  for (const sample of samples) {
    const bin = Math.floor((BINS * (sample - from)) / (to - from));
    if (bin >= 0 && bin < BINS) bins[bin] += 1 / samples.length;
  }
  // A light kernel: a hill of few samples is not a comb.
  return bins.map((_, at) => sum([-2, -1, 0, 1, 2].map((step) => (bins[at + step] ?? 0) * (3 - Math.abs(step)))) / 9);
}

function hillRow(process, number, index, hills, scale) {
  const { samples_ms: samples, taints } = process;
  const sorted = [...samples].sort((a, b) => a - b);
  const p50 = rank(sorted, 0.5);
  const disturbed = taints.length > 0;
  const highest = Math.max(...hills[number], 1e-12);
  const line = hills[number].map((part, bin) => `${((bin + 0.5) * SIZE) / BINS} ${(SIZE * (1 - (0.94 * part) / highest)).toFixed(1)}`).join("L");
  const svg = draw("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    draw("path", { class: `hill ${disturbed ? "disturbed" : `f${tone(index)}`}`, d: `M0 ${SIZE}L${line}L${SIZE} ${SIZE}Z` }));
  const track = el("div", { class: "track hills" }, svg);
  if (p50 != null) track.append(place("middle", p50, p50, scale, `p50: ${ms(p50)}`));
  const name = [`process ${number + 1}`, el("small", {}, `p50 ${ms(p50)}`, disturbed ? el("span", { class: "warn", title: shortened(taints.join("; "), 300) }, ", disturbed") : `, ${plural(samples.length, "run")}`)];
  return [el("div", {}, name), track];
}

function distribution(index) {
  const { repetitions } = measurements[index];
  const sorted = repetitions.flatMap(({ samples_ms: samples }) => samples).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const [low, middle, high] = [0.1, 0.5, 0.9].map((part) => sorted[Math.floor(part * (sorted.length - 1))]);
  const middles = repetitions.map(({ samples_ms: samples }) => median(samples) ?? 0);
  const least = sorted[0], most = Math.max(1.02 * Math.max(middle, ...middles), Math.min(sorted[sorted.length - 1], middle + 4 * (high - low)));
  const [from, to] = [least - 0.03 * (most - least), most + 0.03 * (most - least)];
  const scale = (value) => Math.max(0, Math.min(1, (value - from) / (to - from)));
  const hills = repetitions.map(({ samples_ms: samples }) => hill(samples, from, to));
  const axis = el("div", { class: "axis" });
  labelAxis(axis, from, to, " ms");
  const beyond = sorted.filter((sample) => sample > to).length;
  const rows = repetitions.slice(0, 40).flatMap((process, number) => hillRow(process, number, index, hills, scale));
  const strides = repetitions.map(({ sample_stride: stride }) => stride ?? 1);
  return el("div", {}, heading(index), el("div", { class: "rows close" }, rows, el("div", { class: "blank" }), axis),
    beyond ? el("p", { class: "muted" }, `${quantity(beyond)} of ${plural(sorted.length, "run")} took longer than the axis; the longest ${ms(sorted[sorted.length - 1])}.`) : null,
    differ([...strides, 1]) ? el("p", { class: "muted" }, `Drawn of every ${Math.max(...strides)}th run; the figures are of all.`) : null);
}

function showDistributions() {
  if (!timed.length) return;
  section("distributions", "Distributions", "samples of each process, │ its p50: hills that lie apart are processes that differ, which no number of runs in one process can show",
    el("div", { class: "columns" }, timed.map(distribution)));
}
