// The answer first: does it fit, and the few figures that decide.
const { flash, activations, compute } = report;
const profiles = report.ram ?? [];

const short = (value) => {
  const digits = value >= 0.095 || value === 0 ? 1 : value >= 0.0095 ? 2 : 3;
  return fixed(value, digits).replace(/\.0+$/, "");
};

function budgetText({ resource, profile, needed_bytes: needed, budget_bytes: budget, fits }) {
  const other = profile && profile !== report.target ? ` (${shortened(profile, 40)})` : "";
  const name = (resource === "ram" ? "RAM" : resource) + other;
  const together = (...text) => [`${name} `, el("span", { class: "together" }, ...text)];
  if (needed == null) return together(`unknown${budget == null ? "" : `, limit ${short(budget / 1e6)} MB`}`);
  if (budget == null) return together(`${short(needed / 1e6)} MB, no limit`);
  const over = fits === false ? [", ", el("span", { class: "together bad" }, `over by ${mb(needed - budget)}`)] : "";
  return [together(`${short(needed / 1e6)} of ${short(budget / 1e6)} MB`), over];
}

const peakOf = (profile) => (profile.measured && !profile.measured.failed ? profile.measured.run_peak_bytes : profile.run_peak?.total_bytes);

// Layers of unknown shapes are not in the total.
function macsText({ macs, layers }) {
  if (!layers?.some((layer) => layer.output_shape === null)) return quantity(macs);
  return macs ? `more than ${quantity(macs)}` : "unknown";
}

function verdict() {
  const budgets = report.budgets ?? [];
  if (budgets.length) {
    const target = report.target ? ` ${shortened(report.target, 60)}` : "";
    const known = budgets.filter(({ fits }) => fits === true).map(({ resource }) => resource);
    const unsure = known.length ? `${known.join(" and ")} fits`.replace("ram", "RAM") : "not known to fit";
    const undecided = budgets.some(({ needed_bytes, budget_bytes }) => needed_bytes == null && budget_bytes != null);
    const head = report.fits === false ? "✗ does not fit" : undecided || report.fits == null ? `? ${unsure}` : "✓ fits";
    const tone = report.fits === false ? "bad" : undecided || report.fits == null ? "warn" : "good";
    return el("h1", { id: "verdict" }, el("span", { class: tone }, head), `${target}: `, budgets.map((budget, index) => [index ? ", " : "", budgetText(budget)]));
  }
  const parts = [`${mb(flash.file_bytes)} in flash`];
  if (profiles.length) parts.push(`RAM ${mb(peakOf(profiles[0]))} at run peak`);
  else parts.push(`peak activations ${mb(activations.peak_bytes)}`);
  return el("h1", { id: "verdict" }, parts.join(", "));
}

function budgetBars() {
  const rows = (report.budgets ?? []).filter(({ needed_bytes, budget_bytes }) => needed_bytes != null && budget_bytes > 0);
  if (!rows.length) return null;
  return el("div", { class: "budgets" }, rows.flatMap((budget) => {
    const part = budget.needed_bytes / budget.budget_bytes;
    const level = styled(el("i"), { width: percent(Math.min(1, part)) });
    const name = budget.resource === "ram" ? "RAM" : budget.resource;
    return [
      el("span", {}, name, budget.profile ? [" ", label(budget.profile, 28)] : null),
      el("div", { class: budget.fits === false ? "rail over" : "rail" }, level),
      el("span", { class: budget.fits === false ? "bad" : "muted" }, `${mb(budget.needed_bytes)} of ${mb(budget.budget_bytes)}, ${ratio(part)}`),
    ];
  }));
}

function showVerdict(page) {
  const first = profiles[0];
  const saved = flash.saved_bytes ? `sharing saves ${mb(flash.saved_bytes)}` : "none is shared";
  const figures = [
    figure("Flash", mb(flash.file_bytes), `${ratio(flash.unique_bytes / Math.max(1, flash.file_bytes))} of it weights, each once`),
    first ? figure("RAM at run peak", mb(peakOf(first)), [label(first.profile, 28), ", above the runtime"]) : null,
    figure("Activations at the peak", mb(activations.peak_bytes), activations.node ? label(activations.node, 32) : null),
    figure("Kernels", flash.kernels.toLocaleString("en-US"), `for ${plural(flash.layers, "layer")}; ${saved}`),
    compute ? figure("Multiply-accumulates", macsText(compute), compute.gflops == null || !compute.macs ? null : `${compute.gflops < 1 ? compute.gflops.toPrecision(2) : fixed(compute.gflops, 2)} GFLOPs (2 × MACs)`) : null,
    compute ? figure("Parameters", quantity(compute.parameters), compute.parameters_unshared == null ? null : `${quantity(compute.parameters_unshared)} without sharing`) : null,
    compute?.latency_bound_ms != null ? figure("Latency, lower bound", `${compute.latency_bound_ms.toPrecision(3)} ms`, "from bandwidth and MAC rate") : null,
  ];
  const format = report.format ? ` · ${shortened(report.format, 20)}` : "";
  page.append(
    el("header", {}, el("p", { class: "file" }, label(report.file, 120), format), verdict(), budgetBars(), el("dl", { class: "figures" }, figures.filter(Boolean))),
    el("nav", { "aria-label": "Sections" }),
  );
  document.title = `${shortened(report.file.split(/[\\/]/).pop(), 60)} · footprint`;
}
