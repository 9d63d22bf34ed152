// Latency side by side: p50 with its interval, and the spread of the samples; ratios of comparisons.
const place = (kind, from, to, scale, title) => styled(el("span", { class: kind, title }), { left: percent(scale(from)), width: percent(Math.max(0, scale(to) - scale(from))) });

const reachOf = (index) => measurements[index].latency.p90_ms ?? measurements[index].latency.max_ms;

function forestRow(index, scale) {
  const { latency, p50_interval: interval } = measurements[index];
  const track = el("div", { class: "track forest" }, place("whisker", latency.min_ms, reachOf(index), scale, "shortest to p90"));
  if (interval) track.append(place(`interval back${tone(index)}`, interval.low, interval.high, scale, `95 % interval of p50: ${bracket(interval)} ms`));
  const middle = latency.p50_ms ?? latency.mean_ms;
  track.append(place(`point back${tone(index)}`, middle, middle, scale, ms(middle)));
  const taints = measurements[index].taints.length ? el("span", { class: "warn" }, " invalid") : null;
  return [
    el("div", {}, label(nameOf(index), 60), taints),
    el("div", {}, track, el("div", { class: "result" }, "p50 ", el("strong", {}, ms(latency.p50_ms)), ` ${bracket(interval)}, p90 ${digits(latency.p90_ms)}, p99 ${digits(latency.p99_ms)}`)),
  ];
}

function latencyColumns() {
  const of = (key) => (index) => digits(median(counted(measurements[index]).map((process) => process[key])));
  const figures = ["p50", "p90", "p99", "mean", "min", "max"].map((name) => ({ title: name, number: true, cell: (index) => digits(measurements[index].latency?.[`${name}_ms`]) }));
  figures.splice(1, 0, { title: "95 % of p50", number: true, cell: (index) => bracket(measurements[index].p50_interval) || "–" });
  const runtime = ({ job, repetitions }) => `${job.runtime} ${repetitions[0]?.facts.runtime_version ?? ""}`;
  return [
    { title: "ms", cell: (index) => label(nameOf(index), 44) },
    ...figures,
    { title: "load", number: true, cell: of("load_ms") },
    { title: "first", number: true, cell: of("first_inference_ms") },
    { title: "runs", number: true, cell: (index) => quantity(measurements[index].latency.count) },
    { title: "runtime", cell: (index) => [shortened(runtime(measurements[index]), 40), el("small", {}, threadsOf(measurements[index].job))] },
  ];
}

function showLatency() {
  if (!timed.length) return;
  const least = Math.min(...timed.map((index) => measurements[index].latency.min_ms));
  const [from, to] = around(least, Math.max(...timed.map((index) => Math.max(reachOf(index), measurements[index].p50_interval?.high ?? 0))));
  const scale = (value) => Math.max(0, Math.min(1, (value - from) / (to - from)));
  const axis = el("div", { class: "axis" });
  labelAxis(axis, from, to, " ms");
  const legend = el("ul", { class: "legend" }, el("li", {}, "● p50"), el("li", {}, el("span", { class: "key back0" }), "its 95 % interval"), el("li", {}, "─ shortest to p90"));
  section("latency", "Latency", "p50 of the undisturbed processes, with the interval in which it lies from process to process", legend,
    el("div", { class: "rows" }, timed.flatMap((index) => forestRow(index, scale)), el("div", { class: "blank" }), axis),
    table("", latencyColumns(), timed, 20));
}

function ratioRow(comparison, scale) {
  const { ratio: found, interval, a, b, order } = comparison;
  const [toned, text] = comparisonText(comparison);
  const track = el("div", { class: "track forest" }, place("even", 1, 1, scale, "1: equal"), place(`interval back${tone(b)}`, interval.low, interval.high, scale, ratioText(comparison)), place(`point back${tone(b)}`, found, found, scale, fixed(found, 3)));
  return [
    el("div", {}, label(nameOf(b), 40), el("small", {}, "against ", label(nameOf(a), 40))),
    el("div", {}, track, el("div", { class: "result" }, el("strong", {}, ratioText(comparison)), " · ", el("span", { class: toned }, text), order.length ? ` · ${plural(order.length, "block")}, order ${order.slice(0, 12).join(" ")}${order.length > 12 ? " …" : ""}` : "")),
  ];
}

function showRatios() {
  const shown = comparisons.filter(({ a, b }) => !measurements[a].is_emulated && !measurements[b].is_emulated);
  if (!shown.length) return;
  const low = Math.min(1, ...shown.map(({ interval }) => interval.low)), high = Math.max(1, ...shown.map(({ interval }) => interval.high));
  const reach = Math.max(0.02, 1.2 * Math.max(1 - low, high - 1));
  const [from, to] = [Math.max(0, 1 - reach), 1 + reach];
  const scale = (value) => (value - from) / (to - from);
  const axis = el("div", { class: "axis" });
  labelAxis(axis, from, to, " ×");
  section("ratios", "Comparison", "ratio of p50 with its 95 % interval: left of 1 is faster; no difference is shown where the interval holds 1",
    el("div", { class: "rows" }, shown.flatMap((comparison) => ratioRow(comparison, scale)), el("div", { class: "blank" }), axis));
}
