// What it was measured on and with: device facts, processes, and all that is needed to repeat it.
function factText(key, value) {
  if (value == null) return "–";
  if (typeof value === "object" && !Array.isArray(value) && "unknown" in value) return el("span", { class: "muted" }, `unknown: ${shortened(value.unknown, 200)}`);
  if (typeof value === "number") return key.endsWith("_bytes") ? mb(value) : Number.isInteger(value) ? value.toLocaleString("en-US") : String(+value.toPrecision(6));
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value) && value.every((one) => typeof one !== "object")) return shortened(value.join(", ") || "none", 600);
  if (typeof value === "object") return shortened(JSON.stringify(value).replace(/[{}"[\]]/g, " ").replace(/\s+/g, " ").replace(/ ([,:])/g, "$1").trim(), 600);
  return shortened(value, 600);
}

const factRows = (facts) => Object.entries(facts).slice(0, 200).map(([key, value]) => [shortened(key.replaceAll("_", " ").replace(/ bytes$/, ""), 40), factText(key, value)]);
const list = (caption, rows) => table(caption, [{ title: "", cell: ([name]) => el("span", { class: "muted" }, name) }, { title: "", cell: ([, value]) => value }], rows, 60);

function deviceOf(machine) {
  const one = measurements.find((each) => each.machine === machine);
  const own = one.repetitions[0]?.facts ?? {};
  const host = one.host ? { destination: one.host.destination, ssh_options: one.host.options.join(" ") || "none" } : {};
  const emulated = one.is_emulated ? el("p", { class: "warn" }, EMULATED) : null;
  return el("div", { class: "facts" }, el("h3", {}, label(machine, 60)), emulated, list("", factRows({ ...host, ...one.machine_facts, ...own })));
}

function showDevices() {
  const machines = [...new Set(measurements.map(({ machine }) => machine))];
  if (!machines.length) return;
  section("devices", machines.length > 1 ? "Devices" : "Device", "", el("div", { class: "columns" }, machines.map(deviceOf)));
}

function showProcesses() {
  const rows = measurements.flatMap((one, index) => one.repetitions.map((process, number) => ({ index, number, process })));
  if (!rows.length) return;
  const p50 = ({ index, process }) => (measurements[index].is_emulated ? "–" : digits(rank([...process.samples_ms].sort((a, b) => a - b), 0.5)));
  const time = (key) => ({ index, process }) => (measurements[index].is_emulated ? "–" : digits(process[key]));
  const stable = ({ process: { warmup, warmup_stable: found } }) => `${quantity(warmup)}${found === false ? " (not stable)" : ""}`;
  section("processes", "Processes", "each in the order it ran; times in ms", table("", [
    ...(measurements.length > 1 ? [{ title: "", cell: ({ index }) => label(nameOf(index), 40) }] : []),
    { title: "process", number: true, cell: ({ number }) => number + 1 },
    { title: "p50", number: true, cell: p50 },
    { title: "load", number: true, cell: time("load_ms") },
    { title: "first", number: true, cell: time("first_inference_ms") },
    { title: "warm-up", number: true, cell: stable },
    { title: "runs", number: true, cell: ({ process }) => quantity(process.samples_ms.length * (process.sample_stride ?? 1)) },
    { title: "", cell: ({ process: { taints } }) => (taints.length ? el("span", { class: "warn" }, shortened(taints.join("; "), 300)) : el("span", { class: "good" }, "undisturbed")) },
  ], rows, 24));
}

function repeatOf(one, index) {
  const { job, effort, files, inputs_file: inputs, repetitions } = one;
  const options = Object.fromEntries(Object.entries(repetitions[0]?.session ?? job.target.session).map(([key, value]) => [key, value]));
  const stored = ({ path, bytes, sha256 }) => [label(path, 120), el("small", {}, `${quantity(bytes)} bytes, sha256 `, label(sha256, 70))];
  return el("div", { class: "facts" }, heading(index), list("", [
    ...files.map((each, at) => [at ? "external data" : "file", stored(each)]),
    ["inputs", inputs ? stored(inputs) : "random, seed 0"],
    ["parity", shortened(parityText(one), 300)],
    ["effort", `${plural(effort.processes, "process")} of at least ${plural(effort.runs, "run")} and ${effort.seconds} s; warm-up ${effort.warmup == null ? "until stable" : plural(effort.warmup, "run")}; ${effort.repeats} repeated if disturbed`],
    ["target", shortened(job.target.name, 60)],
    ["cores", job.pin.length ? job.pin.join(", ") : "any"],
    ...factRows(options),
    ["started", shortened(one.started, 40)],
  ]));
}

function showRepeat() {
  if (!measurements.length && !report.command.length) return;
  const quoted = (word) => (/^[\w@%+=:,./…-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
  section("repeat", "To repeat it", "", report.command.length ? el("p", { class: "command name" }, shortened(report.command.map(quoted).join(" "), 2000)) : null,
    el("div", { class: "columns" }, measurements.map(repeatOf)));
}
