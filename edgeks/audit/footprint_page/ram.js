// RAM per runtime profile: what is predicted, split into its parts, and the measured peak beside it.
const PARTS = ["mapped", "heap", "packed", "arena", "library"];
const PART_SAYS = {
  mapped: "mapped: read from the file in place",
  heap: "heap: weights copied or computed at load",
  packed: "packed: weights laid out anew for a kernel",
  arena: "arena: activations and scratch",
  library: "library: the runtime's own",
};

const measuredPeak = ({ measured }) => (measured && !measured.failed ? (measured.run_peak_bytes ?? null) : null);

function errorText({ error_ratio: part, error_bytes: size }) {
  return part == null ? "" : `: error ${part < 0 ? "−" : "+"}${ratio(Math.abs(part))} (${signed(size)})`;
}

const shared = ({ kernels }) => (kernels ?? []).filter(({ layers }) => layers > 1);

function heldText(kernels) {
  if (!kernels?.length) return "–";
  const copies = sum(kernels.map((kernel) => kernel.copies));
  const size = sum(kernels.map((kernel) => kernel.copies * (kernel.copy_bytes ?? 0)));
  return [`${plural(copies, "copy").replace("copys", "copies")} of ${plural(kernels.length, "kernel")}`, el("small", {}, mb(size))];
}

function profileRow(profile, most, limit) {
  const { run_peak: predicted, measured } = profile;
  const bar = el("div", { class: "bar", role: "img", "aria-label": `${printable(profile.profile)}: ${mb(predicted?.total_bytes)} predicted` });
  for (const part of PARTS) {
    const size = predicted?.[`${part}_bytes`];
    if (size > 0) bar.append(styled(el("i", { class: part, title: `${PART_SAYS[part]}: ${mb(size)}` }), { width: percent(size / most) }));
  }
  const peak = measuredPeak(profile);
  const track = el("div", { class: "track" }, bar);
  if (peak != null) track.append(styled(el("span", { class: "measured", title: `measured: ${mb(peak)}` }), { left: percent(peak / most) }));
  if (limit != null && limit <= most) track.append(styled(el("span", { class: "limit", title: `budget: ${mb(limit)}` }), { left: percent(limit / most) }));
  const result = peak != null ? [", ", el("strong", {}, mb(peak)), " measured", errorText(measured)] : measured?.failed ? `; not measured: ${shortened(measured.failed, 160)}` : "";
  return [
    el("div", {}, label(profile.profile, 40), el("small", {}, shortened(profile.description ?? "", 80))),
    el("div", {}, track, el("div", { class: "result" }, el("strong", {}, mb(predicted?.total_bytes)), " predicted", result)),
  ];
}

function showRam() {
  if (!profiles.length) return void section("ram", "RAM", "", el("p", {}, "Nothing is known of the RAM that this file takes."));
  const limits = (report.budgets ?? []).filter(({ resource, budget_bytes }) => resource === "ram" && budget_bytes != null);
  const limit = limits[0]?.budget_bytes;
  const highest = Math.max(1, ...profiles.map((profile) => Math.max(profile.run_peak?.total_bytes ?? 0, measuredPeak(profile) ?? 0)));
  const most = 1.04 * (limit != null && limit < 1.5 * highest ? Math.max(highest, limit) : highest);
  const legend = el("ul", { class: "legend" }, PARTS.map((part) => el("li", {}, el("span", { class: `key ${part}` }), PART_SAYS[part])));
  if (profiles.some((profile) => measuredPeak(profile) != null)) legend.append(el("li", {}, "▼ measured peak"));
  if (limit != null && limit <= most) legend.append(el("li", {}, "┆ budget"));
  const axis = el("div", { class: "axis" });
  const step = niceStep(most, 6);
  for (let size = 0; highest > 1 && size <= 0.97 * most; size += step) axis.append(styled(el("span", {}, size ? mb(size) : "0"), { left: percent(size / most) }));
  const bars = el("div", { class: "rows" }, profiles.flatMap((profile) => profileRow(profile, most, limit)), el("div", { class: "blank" }), axis);

  const both = (predicted, measured) => [mb(predicted), measured == null ? null : el("small", {}, `measured ${mb(measured)}`)];
  const part = (key) => ({ title: key, number: true, cell: ({ run_peak: peak }) => kb(peak?.[`${key}_bytes`]) });
  const columns = [
    { title: "profile", cell: ({ profile }) => label(profile, 40) },
    { title: "run peak", number: true, cell: (profile) => both(profile.run_peak?.total_bytes, measuredPeak(profile)) },
    { title: "error", number: true, cell: ({ measured }) => (measured?.error_ratio == null ? "–" : `${measured.error_ratio < 0 ? "−" : "+"}${ratio(Math.abs(measured.error_ratio))}`) },
    ...PARTS.map(part),
    { title: "loaded", number: true, cell: ({ loaded, measured }) => both(loaded?.total_bytes, measured?.loaded_bytes) },
    { title: "load peak", number: true, cell: ({ load_peak_bytes: size, measured }) => both(size, measured?.load_peak_bytes) },
    { title: "shared kernels held", number: true, cell: (profile) => heldText(shared(profile)) },
    { title: "before the file", number: true, cell: ({ baseline_bytes: size, measured }) => both(size, measured?.baseline_bytes) },
  ];
  const held = profiles.filter((profile) => shared(profile).length).map((row) => table([label(row.profile, 40)], [
    { title: "kernel", cell: ({ kernel }) => label(kernel) },
    { title: "layers", number: true, cell: ({ layers }) => layers },
    { title: "copies held", number: true, cell: ({ copies }) => copies },
    { title: "each", number: true, cell: ({ copy_bytes: size }) => kb(size) },
    { title: "in all", number: true, cell: ({ copies, copy_bytes: size }) => kb(copies * size) },
  ], shared(row)));
  section("ram", "RAM", "at run peak, above a process that has imported the runtime", legend, bars,
    el("h3", {}, "Per profile"), table("", columns, profiles, 20),
    held.length ? el("details", {}, el("summary", {}, "Copies of shared kernels that each runtime holds"), el("div", { class: "columns" }, held)) : null);
}
