// Samples against time, process after process, with the clock and the temperature below.
const SLOTS = 480;
const GAP = 0.015; // between processes, of the whole time

// Counted runs end where the reading "after" was taken: what lies before them is loading and warming up.
function times({ samples_ms: samples, sample_stride: stride = 1, states }) {
  const after = states.find(({ moment }) => moment === "after");
  const whole = (stride * sum(samples)) / 1000;
  let now = after ? Math.max(0, after.seconds - whole) : 0;
  return samples.map((sample) => (now += (stride * sample) / 1000));
}

function timeline(index) {
  const processes = measurements[index].repetitions.map((process, number) => {
    const at = times(process);
    const first = Math.min(at[0] ?? 0, ...process.states.map(({ seconds }) => seconds));
    const last = Math.max(at[at.length - 1] ?? 0, ...process.states.map(({ seconds }) => seconds), first + 1e-6);
    return { process, number, at, first, seconds: last - first };
  });
  const gap = GAP * sum(processes.map(({ seconds }) => seconds));
  let start = 0;
  for (const one of processes) {
    one.start = start;
    one.at = one.at.map((time) => start + time - one.first);
    one.states = one.process.states.map((state) => ({ ...state, at: start + state.seconds - one.first }));
    start += one.seconds + gap;
  }
  return { processes, end: Math.max(start - gap, 1e-6) };
}

// Shortest, middle and longest sample of each slot of time.
function slots({ processes, end }) {
  const found = new Map();
  for (const { process, number, at } of processes)
    process.samples_ms.forEach((sample, run) => {
      const slot = Math.min(SLOTS - 1, Math.floor((SLOTS * at[run]) / end));
      const key = `${number} ${slot}`;
      if (!found.has(key)) found.set(key, { number, slot, samples: [] });
      found.get(key).samples.push(sample);
    });
  return [...found.values()].map(({ number, slot, samples }) => {
    samples.sort((a, b) => a - b);
    return { number, slot, low: samples[0], middle: samples[(samples.length - 1) >> 1], high: samples[samples.length - 1], count: samples.length };
  });
}

function separators(svg, { processes }, X) {
  for (const { process, start, seconds } of processes)
    svg.append(draw("rect", { class: process.taints.length ? "span disturbed-span" : "span", x: X(start), width: X(seconds) - X(0), y: 0, height: SIZE }));
}

function latencyChart(index, whole, cells) {
  // By what is usual in a slot: a run that was interrupted leaves the plot at the top, with a mark there.
  const sorted = cells.map(({ middle }) => middle).sort((a, b) => a - b);
  const lows = Math.min(...cells.map(({ low }) => low));
  const most = Math.max(1.3 * sorted[Math.floor(0.95 * (sorted.length - 1))], 1.05 * lows);
  const [y0, y1] = around(lows, most);
  const { X, Y, svg, plot, element } = axes({ x: [0, whole.end], y: [y0, y1], kind: "tall", rows: 4, xUnit: null, yUnit: " ms", said: `Latency of the runs of ${plural(whole.processes.length, "process")} against time` });
  const x = (slot) => ((slot + 0.5) * SIZE) / SLOTS;
  separators(svg, whole, X);
  const top = (value) => Math.max(0, Y(value)).toFixed(1);
  const range = cells.filter(({ count }) => count > 1).map(({ slot, low, high }) => `M${x(slot).toFixed(1)} ${top(low)}V${top(high)}`).join("");
  const dots = cells.filter(({ middle }) => middle <= y1).map(({ slot, middle }) => `M${x(slot).toFixed(1)} ${top(middle)}h0`).join("");
  const over = cells.filter(({ high }) => high > y1).map(({ slot }) => `M${x(slot).toFixed(1)} 0v28`).join("");
  svg.append(draw("path", { class: `reach k${tone(index)}`, d: range }), draw("path", { class: `dots k${tone(index)}`, d: dots }), draw("path", { class: "over", d: over }));
  return { plot, element, svg, x };
}

// One line per quantity: the lowest of the cores' clocks, the temperature.
const READINGS = [
  { name: "clock", unit: " MHz", key: "clock_mhz", value: ({ clock_mhz: clocks }) => (clocks?.length ? Math.min(...clocks) : null), most: ({ nominal_clock_mhz: clocks }) => (clocks?.length ? Math.max(...clocks) : null) },
  { name: "temperature", unit: " °C", key: "temperature_c", value: ({ temperature_c: heat }) => heat },
];

function readingChart(reading, whole, isLast) {
  const states = whole.processes.flatMap(({ states }) => states);
  const known = states.filter((state) => reading.value(state) != null);
  if (!known.length) {
    const why = states.map(({ unknown }) => unknown[reading.key]).find(Boolean);
    return el("p", { class: "muted unknown" }, `${reading.name}: ${states.length ? `unknown${why ? `: ${shortened(why, 160)}` : ""}` : "not read"}`);
  }
  const values = known.map(reading.value);
  const limit = reading.most ? Math.max(...known.map((state) => reading.most(state) ?? 0)) : 0;
  const [low, high] = [Math.min(...values), Math.max(...values, limit)];
  const range = reading.most ? [0, high * 1.1] : [Math.floor(low - 3), Math.ceil(high + 3)];
  const { X, Y, svg, element } = axes({ x: [0, whole.end], y: range, kind: "low", rows: 2, xUnit: isLast ? " s" : null, yUnit: reading.unit, said: `${reading.name} against time: ${plain(Math.min(...values), 1)} to ${plain(Math.max(...values), 1)}${reading.unit}` });
  separators(svg, whole, X);
  if (limit) svg.append(draw("line", { class: "most", x1: 0, x2: SIZE, y1: Y(limit), y2: Y(limit) }));
  for (const { states: own } of whole.processes) {
    const line = own.filter((state) => reading.value(state) != null).map((state) => `${X(state.at).toFixed(1)} ${Y(reading.value(state)).toFixed(1)}`);
    if (line.length) svg.append(draw("path", { class: `reading ${reading.name}`, d: `M${line.join("L")}${line.length === 1 ? "h0" : ""}` }));
  }
  return element;
}

function series(index) {
  const whole = timeline(index);
  const cells = slots(whole);
  if (!cells.length) return null;
  const { plot, element, svg, x } = latencyChart(index, whole, cells);
  const readout = el("p", { class: "readout", role: "status" }, el("span", { class: "muted hint" }, "Point at a moment, or move with the arrow keys."));
  const cursor = draw("line", { class: "moment", x1: -9, x2: -9, y1: 0, y2: SIZE });
  svg.append(cursor);
  const order = [...cells].sort((one, other) => one.slot - other.slot);
  const show = (slot) => {
    const cell = order.reduce((best, one) => (Math.abs(one.slot - slot) < Math.abs(best.slot - slot) ? one : best));
    for (const key of ["x1", "x2"]) cursor.setAttribute(key, x(cell.slot));
    const { process, states, start } = whole.processes[cell.number];
    const at = ((cell.slot + 0.5) * whole.end) / SLOTS;
    const near = states.length ? states.reduce((best, one) => (Math.abs(one.at - at) < Math.abs(best.at - at) ? one : best)) : null;
    const conditions = near ? READINGS.filter((reading) => reading.value(near) != null).map((reading) => `, ${reading.name} ${plain(reading.value(near), 1)}${reading.unit}`) : [];
    const spread = cell.count > 1 ? ` (${digits(cell.low)} to ${digits(cell.high)}, ${plural(cell.count, "run")})` : "";
    const why = process.taints.length ? el("span", { class: "warn" }, `; disturbed: ${shortened(process.taints.join("; "), 160)}`) : null;
    readout.replaceChildren(...[`process ${cell.number + 1}, ${fixed(Math.max(0, at - start), 2)} s: `, el("strong", {}, ms(cell.middle)), spread, ...conditions, why].filter(Boolean));
  };
  plot.tabIndex = 0;
  plot.setAttribute("role", "group");
  browse(plot, svg, SLOTS, show, () => order[0].slot);
  return el("div", { class: "series" }, heading(index), readout, element, READINGS.map((reading, number) => readingChart(reading, whole, number === READINGS.length - 1)));
}

function showSeries() {
  if (!timed.length) return;
  section("series", "Over time", "every run in its order, one band per process; warming, throttling and other programs show here", timed.map(series));
}
