// Operators: the runtime's own times, summed by type and one by one.
function typeBar(rows, total) {
  const types = new Map();
  for (const { type, ms: time } of rows) types.set(type, (types.get(type) ?? 0) + time);
  const sorted = [...types].sort((one, other) => other[1] - one[1]);
  const shown = sorted.length > 6 ? [...sorted.slice(0, 5), ["others", sum(sorted.slice(5).map(([, time]) => time))]] : sorted;
  const bar = el("div", { class: "bar", role: "img", "aria-label": "Time by type of operator: the list below has the figures" });
  shown.forEach(([type, time], index) => bar.append(styled(el("i", { class: `back${index}`, title: `${shortened(type, 60)}: ${ms(time)}` }), { width: percent(time / total) })));
  const legend = el("ul", { class: "legend" }, shown.map(([type, time], index) => el("li", {}, el("span", { class: `key back${index}` }), shortened(type, 40), ` ${ms(time)}, ${ratio(time / total)}`)));
  return [bar, legend];
}

function opsOf(index) {
  const { ops } = measurements[index];
  const total = sum(ops.filter(({ depth }) => !depth).map(({ ms: time }) => time));
  if (!total) return el("div", {}, heading(index), el("p", { class: "muted" }, "The profile holds no time."));
  const longest = Math.max(...ops.map(({ ms: time }) => time));
  const rows = ops.map((op, at) => ({ ...op, at })).sort((one, other) => other.ms - one.ms);
  const bar = (time) => el("div", { class: "opbar" }, styled(el("i", { class: `back${tone(index)}` }), { width: percent(time / longest) }));
  return el("div", {}, heading(index), typeBar(ops.filter(({ depth }) => !depth), total), table("", [
    { title: "#", number: true, cell: ({ at }) => at + 1 },
    { title: "operator", cell: ({ name, depth }) => [depth ? "↳ " : "", label(name, 44)] },
    { title: "type", cell: ({ type }) => shortened(type, 32) },
    { title: "ms", number: true, cell: ({ ms: time }) => fixed(time, 4) },
    { title: "share", number: true, cell: ({ ms: time }) => ratio(time / total) },
    { title: "", cell: ({ ms: time }) => bar(time) },
  ], rows, 15));
}

function showOps() {
  const profiled = measurements.flatMap((one, index) => (one.ops?.length && !one.is_emulated ? [index] : []));
  const without = measurements.flatMap((one, index) => (one.ops === null && one.effort.profile && one.ops_reason ? [el("p", { class: "muted" }, label(nameOf(index), 60), `: ${shortened(one.ops_reason, 300)}`)] : []));
  if (!profiled.length && !without.length) return;
  section("operators", "Operators", profiled.length ? "mean time in one inference, of a process of its own: profiling slows it" : "", el("div", { class: "columns" }, profiled.map(opsOf)), without);
}
